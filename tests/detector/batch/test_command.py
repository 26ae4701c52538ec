from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from groundwire.batch.command import score
from groundwire.batch.units import CHARACTERS
from groundwire.errors import GroundwireError, InputError, MissingExtra
from groundwire.types import Detection, Example

GOOD = {"id": 1, "prompt": "p", "response": "r"}


class StandIn:
    """Every answer scores 0.7; an answer that reads "stop" raises what `error` holds."""

    threshold = 0.5
    tokens_read = 0
    error: BaseException | None = None
    loaded: list[tuple]
    asked: dict[str, bool]
    before = staticmethod(lambda: None)

    @classmethod
    def from_pretrained(
        cls, artifact: str | None = None, *, model: str | None = None, device: str, dtype: str, **_: None
    ) -> StandIn:
        cls.loaded.append((artifact, model, device, dtype))
        return cls()

    def score_batch(self, examples: Sequence[Example], **asked: bool) -> list[Detection]:
        type(self).asked = asked
        type(self).before()
        if any(example.response == "stop" for example in examples):
            raise self.error
        return [Detection("checked", score=0.7, logit=0.8, intercept=0.8) for _ in examples]


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    StandIn.loaded = []
    monkeypatch.setitem(sys.modules, "groundwire.detector", SimpleNamespace(Detector=StandIn))
    return StandIn


@pytest.fixture
def run(tmp_path):
    """Run the command on rows; returns click's result and the output path."""

    def run(*rows: object, options: Sequence[str] = (), source: str | None = None):
        path, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        path.write_text(lines)
        result = CliRunner().invoke(score, [source or str(path), "-o", str(target), *options], input=lines)
        return result, target

    return run


def test_a_run_ends_with_a_summary_on_standard_error(run):
    result, target = run(GOOD, GOOD)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "rows         2\n" in result.stderr
    assert "flagged      2 (100.0% of checked)" in result.stderr
    assert str(target) in result.stderr
    assert len(target.read_text().splitlines()) == 2


def test_options_reach_the_detector_and_the_scores(run, detector):
    options = ["--artifact", "mine", "--model", "theirs", "--device", "cuda:1", "--dtype", "bfloat16"]
    options += ["--threshold", "0.9", "--tokens"]
    result, target = run(GOOD, options=options)
    assert result.exit_code == 0
    assert detector.loaded == [("mine", "theirs", "cuda:1", "bfloat16")]
    verdict = json.loads(target.read_text())["hallucination"]
    assert (verdict["threshold"], verdict["flagged"], verdict["tokens"]) == (0.9, False, [])


def test_unreadable_rows_make_exit_code_1(run):
    result, target = run(GOOD, "{", GOOD)
    assert result.exit_code == 1
    assert "not checked  1 (1 invalid_input)" in result.stderr
    assert "1 rows could not be read" in result.stderr
    assert len(target.read_text().splitlines()) == 3


def test_rows_without_passages_are_not_a_failure(run):
    result, _ = run({"id": 1, "context": [], "question": "q", "response": "r"})
    assert result.exit_code == 0
    assert "flagged      0\n" in result.stderr


def test_dash_reads_standard_input(run):
    result, target = run(GOOD, source="-")
    assert result.exit_code == 0
    assert target.exists()


def test_a_missing_file_fails_before_the_model_is_loaded(run, detector):
    result, _ = run(source="none.jsonl")
    assert isinstance(result.exception, InputError)
    assert detector.loaded == []


def test_an_existing_output_needs_overwrite(run):
    _, target = run(GOOD)
    target.with_name("out.jsonl.run").unlink()
    assert isinstance(run(GOOD)[0].exception, InputError)
    assert run(GOOD, options=["--overwrite"])[0].exit_code == 0
    assert isinstance(run(GOOD, options=["--no-resume"])[0].exception, InputError)


def test_the_same_command_again_changes_nothing_and_says_so(run):
    first, target = run(GOOD, "{")
    stamps = {path: path.stat().st_mtime_ns for path in target.parent.iterdir() if path.name != "in.jsonl"}
    again, _ = run(GOOD, "{")
    assert (first.exit_code, again.exit_code) == (1, 1)
    assert "all rows were scored already" in again.stderr
    assert "rows         2 (2 of them scored earlier)" in again.stderr
    assert "flagged      1 (100.0% of checked)" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_strict_stops_at_the_first_bad_row_and_goes_on_when_it_is_mended(run):
    result, target = run(GOOD, "{", options=["--strict"])
    assert isinstance(result.exception, InputError)
    assert "in.jsonl, line 2: not readable JSON" in str(result.exception)
    assert not target.exists()
    result, target = run(GOOD, GOOD, options=["--strict"])
    assert result.exit_code == 0
    assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize(("given", "wanted"), [([], True), (["--long-prompts", "skip"], False)])
def test_long_prompts_are_scored_in_windows_or_skipped(run, detector, given, wanted):
    assert run(GOOD, options=given)[0].exit_code == 0
    assert detector.asked == {"features": False, "passage_windows": wanted}


def test_sigterm_is_an_interruption_with_an_exit_code_of_its_own(run, monkeypatch, detector):
    monkeypatch.setattr(detector, "error", None)
    monkeypatch.setattr(detector, "before", lambda: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    result, _ = run(GOOD)
    assert result.exit_code == 143
    assert "no row was written" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "raised", "code"), [(KeyboardInterrupt(), SystemExit, 130), (GroundwireError("x"), GroundwireError, 1)]
)
def test_an_interrupted_run_says_where_its_rows_are(run, monkeypatch, detector, error, raised, code):
    monkeypatch.setattr(detector, "error", error)
    rows = [GOOD | {"id": i, "prompt": f"{i} ".ljust(CHARACTERS // 64 - 1, "x")} for i in range(64)]
    result, target = run(*rows, GOOD | {"response": "stop"})
    assert isinstance(result.exception, raised)
    assert result.exit_code == code
    assert "64 finished rows are kept in" in result.stderr
    assert "the same command continues there" in result.stderr
    assert not target.exists()


def test_a_threshold_outside_0_to_1_is_a_usage_error(run):
    result, _ = run(GOOD, options=["--threshold", "3"])
    assert result.exit_code == 2
    assert "--threshold" in result.stderr


def test_help_shows_the_row_formats():
    text = CliRunner().invoke(score, ["--help"]).stdout
    assert '{"id": 1, "prompt": "...", "response": "..."}' in text
    assert "Exit code" in text


def test_columns_several_files_and_standard_output(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,answer\np,r\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "p", "answer": "r"}) + "\n{\n")
    result = CliRunner().invoke(
        score, [str(tmp_path / "a.csv"), str(tmp_path / "b*"), "-o", "-", "--response-column", "answer"]
    )
    assert result.exit_code == 1
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    b = tmp_path / "b.jsonl"
    assert [row["id"] for row in rows] == [f"{tmp_path / 'a.csv'}:line-2", f"{b}:line-1", f"{b}:line-2"]
    assert rows[2]["hallucination"]["detail"].startswith(f"{b}, line 2: not readable JSON")


def test_options_reach_the_crew(run, monkeypatch, tmp_path):
    from groundwire.batch import command
    from groundwire.batch.recipe import Recipe
    from groundwire.batch.workers import WorkersRunner
    from groundwire.engines.fake import fake_detector

    asked = []

    def crew(*given: object, **named: object) -> WorkersRunner:
        asked.append((*given, named))
        return WorkersRunner(fake_detector, given[1], workers=1)

    monkeypatch.setattr(command, "_crew", crew)
    features = tmp_path / "features.parquet"
    options = ["--runner", "ray", "--workers", "3", "--ray-address", "head:6379", "--gpus-per-worker", "0.5"]
    options += ["--device", "cuda", "--threshold", "0.9", "--features", str(features), "--features-of", "token"]
    result, target = run(GOOD, options=options)
    assert result.exit_code == 0, result.output
    ((recipe, given, runner, workers, named),) = asked
    assert recipe == Recipe(device="cuda")
    assert (given.threshold, given.features) == (0.9, "token")
    assert (runner, workers, named) == ("ray", 3, {"address": "head:6379", "gpus": 0.5})
    assert json.loads(target.read_text())["hallucination"]["threshold"] == 0.9
    assert features.exists()


def test_what_is_for_ray_needs_it(run):
    result, target = run(GOOD, options=["--workers", "2", "--ray-address", "head:6379"])
    assert result.exit_code == 2
    assert "--runner ray" in result.stderr
    assert not target.exists()


@pytest.mark.parametrize(("runner", "kind"), [("local", "WorkersRunner"), ("ray", "RayRunner")])
def test_who_scores(runner, kind):
    from groundwire.batch.command import _crew
    from groundwire.batch.recipe import Recipe
    from groundwire.batch.unit import Options

    if runner == "ray":
        pytest.importorskip("ray", reason='Ray is not installed: pip install "groundwire[ray]"')
    crew = _crew(Recipe(), Options(0.5), runner, 2, address=None, gpus=None)
    assert type(crew).__name__ == kind
    assert crew.workers == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine-option", "a=1"], "is for --engine vllm"),
        (["--engine", "vllm", "--dtype", "int8"], "--dtype int8 is for --engine transformers"),
        (["--engine", "vllm", "--workers", "2"], "tensor_parallel_size"),
        (["--engine", "vllm", "--engine-option", "gpu"], "expected NAME=VALUE"),
    ],
)
def test_options_that_do_not_go_with_the_engine_are_refused(tmp_path, options, says):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1, "prompt": "a", "response": "b"}\n', encoding="utf-8")
    result = CliRunner().invoke(score, [str(source), "-o", str(tmp_path / "out.jsonl"), *options])
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_the_vllm_engine_without_vllm_says_what_to_install(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 1, "prompt": "a", "response": "b"}\n', encoding="utf-8")
    result = CliRunner().invoke(score, [str(source), "-o", str(tmp_path / "out.jsonl"), "--engine", "vllm"])
    assert isinstance(result.exception, MissingExtra)
    assert not (tmp_path / "out.jsonl").exists()
