"""Real processes, the fake detector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from groundwire.batch.crew import DEPTH, Crew
from groundwire.batch.recipe import Recipe
from groundwire.batch.unit import LocalRunner, Options, Runner, Scored, Unit
from groundwire.batch.workers import WorkersRunner
from groundwire.engines.fake import fake_detector
from groundwire.errors import CaptureError, GroundwireError, InputError
from tests.detector.batch.breaking import BROKEN, FATAL, Breaking, breaking, pids, units, unloadable

OPTIONS = Options(threshold=0.5, tokens=True, features="token")


def comparable(outcomes: list[Scored]) -> list[Any]:
    by_number = sorted(outcomes, key=lambda scored: scored.unit.number)
    return [(s.unit, s.verdicts, s.tokens, [f.tolist() for f in s.features if f is not None]) for s in by_number]


def as_local(outcomes: Iterable[Scored], given: list[Unit]) -> bool:
    """Whether the outcomes are those of one process; said here, where pytest does not compare them letter by letter."""
    return comparable(list(outcomes)) == comparable(list(LocalRunner(fake_detector(), OPTIONS).run(given)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(some: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, some)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, some))


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[WorkersRunner]:
    """Two workers for the tests that do them no harm: each takes seconds to start."""
    folder = tmp_path_factory.mktemp("workers")
    with WorkersRunner(breaking(folder, seconds=0.01), OPTIONS, workers=2) as runner:
        yield runner
    assert gone(pids(folder))


def test_two_workers_give_what_one_process_gives(tmp_path):
    given = units(12)
    with WorkersRunner(breaking(tmp_path, together=2), OPTIONS, workers=2) as runner:
        assert isinstance(runner, Runner)
        outcomes = list(runner.run(given))
    assert as_local(outcomes, given)
    assert len(pids(tmp_path)) == 2
    assert gone(pids(tmp_path))


def test_a_runner_runs_again(runner):
    assert as_local(runner.run(units(3)), units(3))
    assert as_local(runner.run(units(4)), units(4))


def test_units_are_taken_as_they_are_needed(runner):
    taken = 0

    def source() -> Iterator[Unit]:
        nonlocal taken
        for unit in units(40, size=1):
            taken += 1
            yield unit

    for done, _ in enumerate(runner.run(source()), 1):
        assert taken <= done + 2 * DEPTH + 1
    assert done == taken == 40


def test_units_larger_than_a_pipe_do_not_block_it(runner):
    given = units(4, size=150)  # more than 64 kB each way
    assert as_local(runner.run(given), given)


def test_the_unit_of_a_worker_that_died_is_run_again(tmp_path):
    given = units(8, unit3=FATAL)
    with WorkersRunner(breaking(tmp_path, times=1), OPTIONS, workers=2) as runner:
        outcomes = list(runner.run(given))
    assert as_local(outcomes, given)
    assert len(list(tmp_path.glob("*.death"))) == 1


def test_a_worker_killed_from_outside_loses_no_row(tmp_path):
    given = units(10)
    with WorkersRunner(breaking(tmp_path, seconds=0.05), OPTIONS, workers=2) as runner:
        running = runner.run(given)
        outcomes = [next(running)]
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
        outcomes += running
    assert as_local(outcomes, given)


def test_rows_that_always_kill_their_worker_end_the_run_and_are_named(tmp_path):
    given = units(8, unit3=FATAL)
    outcomes = []
    with (  # noqa: PT012
        pytest.raises(GroundwireError) as caught,
        WorkersRunner(breaking(tmp_path, times=9), OPTIONS, workers=2) as runner,
    ):
        for scored in runner.run(given):
            outcomes.append(scored)
    assert caught.value.given == "a worker died 3 times while scoring rows 10 to 12 of the input: killed by SIGKILL"
    assert "--workers" in caught.value.remedy
    assert as_local(outcomes, [scored.unit for scored in sorted(outcomes, key=lambda scored: scored.unit.number)])
    assert len(outcomes) >= 2
    assert gone(pids(tmp_path))


def test_an_error_in_a_worker_is_raised_with_its_rows(runner):
    with pytest.raises(CaptureError, match="broken on demand") as caught:
        list(runner.run(units(4, unit2=BROKEN)))
    assert caught.value.remedy == "ask for less"
    assert caught.value.__notes__ == ["That was while scoring rows 7 to 9 of the input."]
    assert as_local(runner.run(units(2)), units(2))  # and the runner still runs


def test_a_fault_of_the_program_brings_its_trace(runner):
    with pytest.raises(GroundwireError, match="broke with ZeroDivisionError: as asked") as caught:
        list(runner.run(units(1, size=1, unit0="ZeroDivisionError")))
    trace, rows = caught.value.__notes__
    assert "in score_batch" in trace
    assert rows == "That was while scoring row 1 of the input."


def test_a_detector_that_cannot_be_loaded_says_why():
    with (
        WorkersRunner(unloadable, OPTIONS, workers=1) as runner,
        pytest.raises(GroundwireError, match="no such detector"),
    ):
        list(runner.run(units(2)))


def test_a_run_that_is_abandoned_leaves_nothing_to_the_next(runner):
    running = runner.run(units(9))
    next(running)
    running.close()
    assert as_local(runner.run(units(4)), units(4))


def test_without_units_there_are_no_outcomes(runner):
    assert list(runner.run([])) == []


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(InputError, match="cannot be sent to a worker"):
        WorkersRunner(lambda: fake_detector(), OPTIONS, workers=1).__enter__()
    with pytest.raises(InputError, match="0 workers"):
        WorkersRunner(fake_detector, OPTIONS, workers=0)


def test_a_crew_is_a_base_class():
    with pytest.raises(TypeError, match="abstract"):
        Crew(2)  # type: ignore[abstract]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_ends_its_workers_without_their_traces(tmp_path, number):
    code = f"""
        import sys
        from pathlib import Path
        from groundwire.batch.unit import Options
        from groundwire.batch.workers import WorkersRunner
        from tests.detector.batch.breaking import breaking, units

        if __name__ == "__main__":
            try:
                with WorkersRunner(breaking(Path({str(tmp_path)!r}), seconds=0.2), Options(0.5), workers=2) as runner:
                    for scored in runner.run(units(1000)):
                        print(scored.unit.number, flush=True)
            except KeyboardInterrupt:
                sys.exit(130)
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(code))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with run:
        assert run.stdout
        assert run.stderr
        run.stdout.readline()
        if number == signal.SIGINT:
            os.killpg(run.pid, number)  # as a terminal does
        else:
            run.kill()
        assert run.wait(30) == (130 if number == signal.SIGINT else -number)
        assert gone(pids(tmp_path))
        assert run.stderr.read() == b""


def test_a_worker_has_its_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr("groundwire.batch.workers.cores", lambda: 2)
    with WorkersRunner(on_one_thread, OPTIONS, workers=2) as runner:
        assert as_local(runner.run(units(2)), units(2))


def on_one_thread() -> Any:
    import torch

    if torch.get_num_threads() != 1:
        raise InputError(f"{torch.get_num_threads()} threads")
    return fake_detector()


def test_recipes_take_the_next_gpu(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [Recipe(device="cuda").on_worker(i).device for i in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0"]
    assert Recipe(device="cuda:1").on_worker(2).device == "cuda:1"
    assert Recipe().on_worker(2) == Recipe()


def test_breaking_is_the_fake_detector(tmp_path):
    assert Breaking(tmp_path).threshold == fake_detector().threshold
