"""How units are handed out, by workers without a process; real ones: test_workers.py, test_ray_runner.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import pytest

from groundwire.batch.crew import DEATHS, DEPTH, Crew, Died, Ready, Report, Worker
from groundwire.batch.described import Described
from groundwire.batch.unit import Options, Unit, score_unit
from groundwire.engines.fake import fake_detector
from groundwire.errors import GroundwireError
from tests.detector.batch.breaking import units

OPTIONS = Options(0.5)
DETECTOR = fake_detector()


class Local:
    """Scores when asked to report. asleep: never gets ready."""

    def __init__(self, asleep: bool) -> None:
        self.units, self.ready, self.asleep, self.ended = deque[Unit](), False, asleep, False

    def send(self, unit: Unit) -> None:
        self.units.append(unit)

    def end(self, *, now: bool) -> None:
        self.ended = True


class LocalCrew(Crew):
    def __init__(self, workers: int, *, asleep: tuple[int, ...] = (), deaths: int = 0) -> None:
        super().__init__(workers)
        self.asleep, self.deaths, self.most, self.started = asleep, deaths, 0, []

    def start(self, number: int) -> Worker:
        self.started.append(Local(number in self.asleep))
        return self.started[-1]

    def wait(self, workers: Mapping[int, Worker], *, block: bool) -> list[tuple[int, Report]]:
        self.most = max(self.most, *(len(worker.units) for worker in workers.values()))
        for number, worker in workers.items() if block else ():
            if not worker.ready and not worker.asleep:
                worker.ready = True
                return [(number, Ready(Described.of(DETECTOR)))]
            if worker.units and self.deaths:
                self.deaths -= 1
                return [(number, Died("gone"))]
            if worker.units:
                return [(number, score_unit(DETECTOR, worker.units.popleft(), OPTIONS))]
        if block:
            raise AssertionError("nobody has anything to report: the crew would wait for ever")
        return []


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_unit_comes_back_once(count, workers):
    with LocalCrew(workers) as crew:
        assert sorted(scored.unit.number for scored in crew.run(units(count))) == list(range(count))
    assert crew.most <= DEPTH
    assert all(worker.ended for worker in crew.started)


def test_whoever_never_gets_ready_is_not_waited_for():
    with LocalCrew(2, asleep=(0,)) as crew:
        assert len(list(crew.run(units(7)))) == 7


def test_the_dead_are_replaced():
    with LocalCrew(1, deaths=DEATHS - 1) as crew:
        assert [scored.unit.number for scored in crew.run(units(4))] == [0, 1, 2, 3]
    assert len(crew.started) == DEATHS
    with (
        LocalCrew(1, deaths=DEATHS) as crew,
        pytest.raises(GroundwireError, match=r"died 3 times while scoring rows 1 to 3 of the input: gone"),
    ):
        list(crew.run(units(4)))


def test_it_describes_the_detector_of_its_workers():
    with LocalCrew(2, asleep=(0,)) as crew:
        assert crew.describe() == Described.of(DETECTOR)
        assert len(list(crew.run(units(2)))) == 2
