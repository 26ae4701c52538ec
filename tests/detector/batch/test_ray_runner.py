"""A real cluster on this machine, the fake detector."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from groundwire.batch.ray_runner import RayRunner
from groundwire.batch.recipe import Recipe
from groundwire.batch.unit import Runner
from groundwire.errors import CaptureError, GroundwireError
from tests.detector.batch.breaking import BROKEN, FATAL, breaking, pids, units, unloadable
from tests.detector.batch.test_workers import OPTIONS, as_local, gone

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "groundwire[ray]"')


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Iterator[RayRunner]:
    """Two actors of a cluster that the runner starts; each takes seconds to start."""
    folder = tmp_path_factory.mktemp("actors")
    with RayRunner(breaking(folder, seconds=0.01), OPTIONS, workers=2) as runner:
        yield runner
    assert not ray.is_initialized()
    assert gone(pids(folder))


def test_two_actors_give_what_one_process_gives(runner):
    assert isinstance(runner, Runner)
    assert as_local(runner.run(units(12)), units(12))
    assert as_local(runner.run(units(3)), units(3))


def test_an_error_in_an_actor_is_raised_with_its_rows(runner):
    with pytest.raises(CaptureError, match="broken on demand") as caught:
        list(runner.run(units(4, unit2=BROKEN)))
    assert caught.value.__notes__ == ["That was while scoring rows 7 to 9 of the input."]
    assert as_local(runner.run(units(2)), units(2))


def test_a_killed_actor_loses_no_row(runner, tmp_path):
    """The cluster is the one the program is connected to already."""
    given = units(10, unit3=FATAL)
    with RayRunner(breaking(tmp_path, seconds=0.05, times=1), OPTIONS, workers=2, cpus=0) as two:
        running = two.run(given)
        outcomes = [next(running)]
        os.kill(pids(tmp_path)[0], signal.SIGKILL)
        outcomes += running
    assert as_local(outcomes, given)
    assert ray.is_initialized()


def test_rows_that_always_kill_their_actor_end_the_run_and_are_named(runner, tmp_path):
    with (
        pytest.raises(GroundwireError, match="died 3 times while scoring rows 1 to 3 of the input"),
        RayRunner(breaking(tmp_path, times=9), OPTIONS, workers=1, cpus=0) as one,
    ):
        list(one.run(units(2, unit0=FATAL)))


def test_a_detector_that_cannot_be_loaded_says_why(runner):
    with (
        pytest.raises(GroundwireError, match="no such detector"),
        RayRunner(unloadable, OPTIONS, workers=1, cpus=0) as one,
    ):
        list(one.run(units(1)))


def test_an_actor_for_which_there_is_no_room_is_not_waited_for(runner, tmp_path):
    given = units(4)
    with RayRunner(breaking(tmp_path), OPTIONS, workers=2, cpus=0) as two:
        two.cpus = 1000
        two._places[1].worker.end(now=True)
        two._places[1].worker = two.start(1)
        assert as_local(two.run(given), given)


def test_an_actor_has_a_gpu_where_its_detector_needs_one():
    assert RayRunner(Recipe(device="cuda"), OPTIONS, workers=1).gpus == 1
    assert RayRunner(Recipe(device="cuda"), OPTIONS, workers=1, gpus=0.5).gpus == 0.5
    assert RayRunner(Recipe(), OPTIONS, workers=1).gpus == 0


def test_a_cluster_that_is_not_there(monkeypatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", unreachable)
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    with pytest.raises(GroundwireError, match=r"no Ray cluster at '192.0.2.1:6379': nobody answers"):
        RayRunner(breaking, OPTIONS, workers=1).__enter__()
