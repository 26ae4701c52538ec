"""No way of ending a run loses a finished row, and what goes on in the end is what an undisturbed run gives."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from groundwire.batch import file_output
from groundwire.batch.columns import Columns
from groundwire.batch.manifest import Manifest
from groundwire.batch.paths import ahead_path, partial_path, run_path
from groundwire.batch.score import Summary, score_file
from groundwire.batch.unit import LocalRunner, Options, Scored, Unit
from groundwire.batch.units import CHARACTERS
from groundwire.errors import GroundwireError, InputError

SCRIPT = Path(__file__).with_name("slow.py")
_spec = importlib.util.spec_from_file_location("slow_run", SCRIPT)
assert _spec
assert _spec.loader
slow = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slow)

UNITS = 8


def rows(units: int = UNITS, *, length: int = CHARACTERS) -> list[dict]:
    """Two rows for each of `units` prompts; those of four prompts stand mixed. A prompt fills a unit."""
    prompts = [f"{unit} known".ljust(length, "x") for unit in range(units)]
    order = [(block + i % 4, i // 4) for block in range(0, units, 4) for i in range(8)]
    return [
        {"id": f"{p}-{n}", "prompt": prompts[p], "response": f"known {n} words {p}", "generator": "ab"[n]}
        for p, n in order
    ]


def fill(path: Path, given: Iterable[dict | str]) -> None:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in given))


class Stopping(LocalRunner):
    """Ends as if by Ctrl-C after some units."""

    def __init__(self, detector: object, after: int) -> None:
        self.inner, self.after = slow.BackwardsRunner(detector, Options(0.5)), after

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        for i, scored in enumerate(self.inner.run(units)):
            if i == self.after:
                raise KeyboardInterrupt
            yield scored


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    fill(path, [*rows(), "{"])
    return path


@pytest.fixture
def undisturbed(tmp_path: Path, source: Path) -> tuple[bytes, bytes, Summary]:
    """What a run that nothing ends writes to OUT and OUT.run, and its summary."""
    target = tmp_path / "undisturbed.jsonl"
    summary = score_file(slow.SlowDetector(), source, target, progress=False)
    return target.read_bytes(), run_path(target).read_bytes(), summary


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def stop(source: Path, target: Path, after: int = 3) -> KeyboardInterrupt:
    detector = slow.SlowDetector()
    with pytest.raises(KeyboardInterrupt) as caught:
        score_file(detector, source, target, runner=Stopping(detector, after), progress=False)
    assert not target.exists()
    return caught.value


def resume(source: Path, target: Path, **given: object) -> tuple[Summary, int]:
    """Go on with a run: its summary, and how many units it scored."""
    detector = slow.SlowDetector()
    summary = score_file(detector, source, target, progress=False, **given)
    return summary, detector.units


def beside(target: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in target.parent.iterdir() if path.name.startswith(target.name)}


def same(summary: Summary, other: Summary) -> bool:
    names = ("rows", "checked", "flagged", "not_checked", "unreadable")
    return all(getattr(summary, name) == getattr(other, name) for name in names) and (
        summary.counts.lines() == other.counts.lines()
    )


@pytest.mark.parametrize("after", range(1, UNITS))
def test_a_run_goes_on_and_scores_only_what_is_missing(source, target, undisturbed, after):
    stop(source, target, after)
    summary, units = resume(source, target)
    assert units == UNITS - after
    assert target.read_bytes() == undisturbed[0]
    assert run_path(target).read_bytes() == undisturbed[1]
    assert set(beside(target)) == {target.name, run_path(target).name}
    assert same(summary, undisturbed[2])
    assert summary.earlier == 2 * after


def test_what_was_kept_is_said_with_how_to_go_on(source, target):
    note = stop(source, target, 3).__notes__[0]
    assert "0 finished rows are kept in" in note
    assert "6 more in" in note
    assert "the same command continues there" in note
    assert len(ahead_path(target).read_text().splitlines()) == 6
    note = stop(source, target, 4).__notes__[0]  # the first prompt, after three of the next four
    assert "11 finished rows are kept in" in note
    assert "3 more in" in note


TORN = [b'{"id": "3-0", "halluc', b"\0" * 4096, b'{"id": 1}\n', b'{"id": "x", "hallucination": {}}', b"\n", b"\xff\n"]


@pytest.mark.parametrize("tail", TORN)
@pytest.mark.parametrize("path", [partial_path, ahead_path, run_path])
def test_torn_ends_are_cut_off(source, target, undisturbed, path, tail):
    stop(source, target, 6)
    with open(path(target), "ab") as file:
        file.write(tail)
    summary, units = resume(source, target)
    assert units == UNITS - 6
    assert target.read_bytes() == undisturbed[0]
    assert run_path(target).read_bytes() == undisturbed[1]
    assert same(summary, undisturbed[2])


@pytest.mark.parametrize("path", [partial_path, ahead_path])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_rows_that_a_power_cut_took_are_scored_again(source, target, undisturbed, path, share):
    stop(source, target, 6)
    data = path(target).read_bytes()
    path(target).write_bytes(data[: int(len(data) * share)])
    summary, units = resume(source, target)
    assert UNITS - 6 < units <= UNITS
    assert target.read_bytes() == undisturbed[0]
    assert same(summary, undisturbed[2])


def test_a_run_that_left_only_its_name_begins_anew(source, target, undisturbed):
    run_path(target).touch()
    assert resume(source, target)[1] == UNITS
    assert target.read_bytes() == undisturbed[0]


def test_a_finished_run_is_compared_and_left_alone(source, target, undisturbed):
    resume(source, target)
    before = beside(target)
    summary, units = resume(source, target)
    assert (units, summary.complete, summary.earlier) == (0, True, len(rows()) + 1)
    assert same(summary, undisturbed[2])
    assert beside(target) == before


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.parquet"])
def test_a_finished_run_of_another_format_is_known_too(source, tmp_path, undisturbed, name):
    pytest.importorskip("pyarrow")
    resume(source, tmp_path / name)
    before = beside(tmp_path / name)
    summary, units = resume(source, tmp_path / name)
    assert (units, summary.complete) == (0, True)
    assert same(summary, undisturbed[2])
    assert beside(tmp_path / name) == before


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst", "out.parquet"])
def test_a_kill_while_packing_only_costs_the_packing(source, tmp_path, monkeypatch, name):
    pytest.importorskip("pyarrow")
    pytest.importorskip("zstandard")
    target, whole = tmp_path / name, tmp_path / f"whole-{name}"
    resume(source, whole)

    def killed(*_: object) -> None:
        target.with_name(name + ".packing").write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(file_output, "put_in_place", killed)
        with pytest.raises(KeyboardInterrupt):
            resume(source, target)
    assert not target.exists()
    assert resume(source, target)[1] == 0
    assert target.read_bytes() == whole.read_bytes()
    assert set(beside(target)) == {name, f"{name}.run"}


def test_a_kill_between_packing_and_clearing_up_is_mended(source, tmp_path):
    target = tmp_path / "out.jsonl.gz"
    resume(source, target)
    whole = target.read_bytes()
    partial_path(target).write_bytes(gzip.decompress(whole))
    assert resume(source, target)[1] == 0
    assert target.read_bytes() == whole
    assert not partial_path(target).exists()


CHANGES: dict[str, tuple[Callable[[list], list], str]] = {
    "a response": (lambda given: [given[0] | {"response": "other"}, *given[1:]], "some of rows 1 to 17"),
    "a prompt": (lambda given: [*given[:-2], given[-2] | {"prompt": "other"}, given[-1]], "have changed"),
    "an id": (lambda given: [given[0] | {"id": "other"}, *given[1:]], "have changed"),
    "the order": (lambda given: [given[1], given[0], *given[2:]], "have changed"),
    "a row less": (lambda given: given[1:], "rows 1 to 16 of the input stand where 17 rows"),
    "a row more": (lambda given: [*given, given[0]], "rows 1 to 18 of the input stand where 17 rows"),
    "no rows": (lambda given: [], "the input has 0 rows now, fewer than were scored"),
    "a bad row mended": (lambda given: [*given[:-1], given[0]], "have changed"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("finished", [False, True])
def test_another_input_is_refused_and_nothing_is_lost(source, target, undisturbed, change, finished):
    if finished:
        resume(source, target)
    else:
        stop(source, target, 6)
    before, original = beside(target), source.read_bytes()
    changed, message = CHANGES[change]
    fill(source, changed([*rows(), "{"]))
    with pytest.raises(InputError, match=message) as caught:
        resume(source, target)
    assert "--overwrite" in caught.value.remedy
    assert beside(target) == before
    source.write_bytes(original)
    summary, units = resume(source, target)
    assert units == (0 if finished else UNITS - 6)
    assert target.read_bytes() == undisturbed[0]
    assert same(summary, undisturbed[2])


def test_a_label_added_later_does_not_change_the_run(source, target):
    stop(source, target)
    fill(source, [*(row | {"label": 1} for row in rows()), "{"])
    summary, units = resume(source, target)
    assert units == UNITS - 3
    assert summary.counts.all.labelled == len(rows())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": 0.4}, "options threshold is 0.4 and was 0.5"),
        ({"tokens": True}, "options tokens is True and was False"),
        ({"top_terms": 2}, "options top_terms is 2 and was 5"),
        ({"passage_windows": False}, "options passage_windows is False and was True"),
        ({"columns": Columns(response="response")}, "columns response is response and was none"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_and_named(source, target, given, message, finished):
    if finished:
        resume(source, target)
    else:
        stop(source, target)
    before = beside(target)
    with pytest.raises(InputError, match=message):
        resume(source, target, **given)
    assert beside(target) == before


def test_another_detector_is_refused_and_named(source, target):
    stop(source, target)
    before = beside(target)
    other = slow.SlowDetector()
    other.id = "other"
    with pytest.raises(InputError, match="detector id is other and was SlowDetector"):
        score_file(other, source, target, progress=False)
    assert beside(target) == before


def test_detectors_that_differ_in_one_number_are_told_apart(tmp_path):
    from dataclasses import replace

    from groundwire.detector import Detector
    from groundwire.engines.fake import fake_detector

    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    fill(source, [{"id": 1, "prompt": "p", "response": "r"}])
    detector = fake_detector()
    score_file(detector, source, target, progress=False)
    assert score_file(fake_detector(), source, target, progress=False).complete
    scorer = replace(detector.artifact.scorer, intercept=-1.0000001)
    other = Detector(replace(detector.artifact, scorer=scorer, card="another"), detector.engine, threshold=0.5)
    with pytest.raises(InputError, match="detector sha256 is"):
        score_file(other, source, target, progress=False)


def test_overwriting_begins_anew(source, target, undisturbed):
    stop(source, target)
    assert resume(source, target, overwrite=True)[1] == UNITS
    assert resume(source, target, overwrite=True, threshold=0.4)[1] == UNITS
    assert set(beside(target)) == {target.name, run_path(target).name}


def test_an_overwriting_run_that_was_stopped_goes_on_and_the_old_output_stays_until_then(source, target, undisturbed):
    target.write_text("old")
    detector = slow.SlowDetector()
    with pytest.raises(KeyboardInterrupt) as caught:
        score_file(detector, source, target, runner=Stopping(detector, 6), progress=False, overwrite=True)
    assert "the same command without --overwrite continues there" in caught.value.__notes__[0]
    assert target.read_text() == "old"
    assert resume(source, target)[1] == UNITS - 6
    assert target.read_bytes() == undisturbed[0]


def test_an_output_that_came_from_elsewhere_is_not_replaced(source, target):
    stop(source, target)
    target.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        resume(source, target)
    assert target.read_text() == "precious"


def test_without_resuming_what_is_there_is_refused(source, target):
    stop(source, target, 5)
    before = beside(target)
    with pytest.raises(InputError, match="did not finish"):
        resume(source, target, resume=False)
    assert beside(target) == before


def test_an_output_without_a_name_beside_it_is_refused_as_ever(source, target):
    target.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        resume(source, target)
    assert beside(target) == {target.name: b"precious"}


def test_a_second_run_of_one_output_is_refused_while_the_first_writes(source, target, undisturbed):
    stop(source, target)
    before = beside(target)
    holder = Manifest(run_path(target), target)
    for given in ({}, {"overwrite": True}):
        with pytest.raises(InputError, match="another run is writing"):
            resume(source, target, **given)
    assert beside(target) == before
    holder.close()
    resume(source, target)
    assert target.read_bytes() == undisturbed[0]


def test_standard_input_is_read_again_from_the_start(source, target, undisturbed, monkeypatch):
    def give() -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))

    give()
    stop("-", target, 5)
    give()
    assert resume("-", target)[1] == UNITS - 5
    rows_of = [json.loads(line)["id"] for line in target.read_bytes().splitlines()]
    assert rows_of == [json.loads(line)["id"] for line in undisturbed[0].splitlines()]


def test_a_runner_that_loses_a_unit_does_not_finish_and_one_that_gives_it_twice_does_no_harm(
    source, target, undisturbed
):
    class Losing(LocalRunner):
        def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
            for i, scored in enumerate(super().run(units)):
                if i != 2:
                    yield scored
                    yield scored

    detector = slow.SlowDetector()
    with pytest.raises(GroundwireError, match="1 units of work never came back"):
        score_file(detector, source, target, runner=Losing(detector, Options(0.5)), progress=False)
    assert resume(source, target)[1] == 1
    assert target.read_bytes() == undisturbed[0]


def test_a_full_disk_keeps_what_is_there(source, target, undisturbed):
    """In a process of its own, where files cannot grow beyond 2,000 bytes."""
    code = (
        "import resource, runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    command = [sys.executable, "-c", code, str(SCRIPT), str(source), str(target), "0"]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert "cannot write" in ended.stderr
    assert "free disk space" in ended.stderr
    resume(source, target)
    assert target.read_bytes() == undisturbed[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_any_moment_loses_no_row_and_adds_none_twice(tmp_path, seed):
    """Three windows and 120 units, four of them under way at a time and finished backwards."""
    source, whole, target = tmp_path / "in.jsonl", tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    fill(source, rows(120, length=150_000))
    score_file(slow.SlowDetector(), source, whole, progress=False)
    assert len(run_path(whole).read_text().splitlines()) == 5
    moments, kills, kept = random.Random(seed), 0, 0
    command = [sys.executable, str(SCRIPT), str(source), str(target), "0.01"]
    for _ in range(5):
        process = subprocess.Popen(command)
        time.sleep(moments.uniform(0.4, 1.6))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        partial = partial_path(target)
        done = partial.read_bytes() if partial.exists() else b""
        if not target.exists():
            lines = done[: done.rfind(b"\n") + 1]
            assert whole.read_bytes().startswith(lines)
            assert lines.count(b"\n") >= kept
            kept = lines.count(b"\n")
    assert kills
    resume(source, target)
    assert target.read_bytes() == whole.read_bytes()
    assert run_path(target).read_bytes() == run_path(whole).read_bytes()
