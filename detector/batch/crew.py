"""A crew: workers elsewhere, each with a detector of its own, that score units as they get free.

    units -> (a worker with room) -> score_unit there -> Scored, in the order in which they are done

What a worker is (a process, a Ray actor) is the subclass's; how units are handed out and what happens when a worker
dies is here. A unit that was with a worker that died is run again, so a unit is lost only together with the run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, runtime_checkable

from groundwire.batch.described import Described
from groundwire.batch.failure import Failure
from groundwire.batch.unit import Scored, Unit
from groundwire.errors import GroundwireError, InputError

DEPTH = 2  # units with a worker: one it scores, one it finds when that is done
DEATHS = 3  # of one worker without a finished unit in between: more would be a loop


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its detector."""

    detector: Described


@dataclass(frozen=True)
class Died:
    """A worker is no more. how: in a few words, such as "killed by SIGKILL"."""

    how: str


Report = Scored | Failure | Ready | Died


@runtime_checkable
class Worker(Protocol):
    """Somebody who scores units, in the order in which they are sent."""

    def send(self, unit: Unit) -> None:
        """Hand it a unit; where it is dead, nothing: its report will say so."""
        ...

    def end(self, *, now: bool) -> None:
        """End it: `now` in the middle of its work, else with time to tidy up. Does not raise."""
        ...


@dataclass
class _Place:
    """What a worker stands in: its successors take over its units."""

    worker: Worker
    units: deque[Unit] = field(default_factory=deque)
    deaths: int = 0
    ready: bool = False


class Crew(ABC):
    """A runner (see `unit.Runner`) with `workers` workers. They start with the context and end with it."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise InputError(f"{workers} workers", expected="1 or more", remedy="give how many to start")
        self.workers = workers
        self._places: dict[int, _Place] = {}
        self._detector: Described | None = None

    @abstractmethod
    def start(self, number: int) -> Worker:
        """A new worker for a place from 0 to `workers` - 1; it starts loading at once."""

    @abstractmethod
    def wait(self, workers: Mapping[int, Worker], *, block: bool) -> list[tuple[int, Report]]:
        """What workers have to report, by place: at least one report where `block`. After Died, a worker is silent."""

    def __enter__(self) -> Crew:
        try:
            self._fill()
        except BaseException:
            self._end(now=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(now=error is not None)

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        """See `Runner.run`. Raises GroundwireError where a unit fails, or where workers keep dying over it."""
        source, more = iter(units), True
        unit: Unit | None = None  # the next to be handed out
        self._fill()
        try:
            while True:
                yield from self._reports(block=False)  # whatever is done does not wait for a slow source
                if unit is None and more:
                    unit = next(source, None)
                    more = unit is not None
                # Whoever never gets ready, for want of room in a cluster say, is never waited for.
                ready = [place for place in self._places.values() if place.ready and len(place.units) < DEPTH]
                if unit is not None and ready:
                    place = min(ready, key=lambda place: len(place.units))
                    place.units.append(unit)
                    place.worker.send(unit)
                    unit = None
                elif unit is not None or any(place.units for place in self._places.values()):
                    yield from self._reports(block=True)
                else:
                    return
        finally:
            for number, place in list(self._places.items()):
                if place.units:  # abandoned: what is still under way must not come back in the next run
                    self._places.pop(number).worker.end(now=True)

    def describe(self) -> Described:
        """The detector of its workers, as soon as one has loaded it. Raises what loading raises."""
        self._fill()
        while self._detector is None:
            for _ in self._reports(block=True):
                pass
        return self._detector

    def _fill(self) -> None:
        for number in range(self.workers):
            if number not in self._places:
                self._places[number] = _Place(self.start(number))

    def _reports(self, *, block: bool) -> Iterator[Scored]:
        for number, report in self.wait({n: place.worker for n, place in self._places.items()}, block=block):
            place = self._places[number]
            if isinstance(report, Scored):
                place.units.popleft()
                place.deaths = 0
                yield report
            elif isinstance(report, Ready):
                place.ready, self._detector = True, report.detector
            elif isinstance(report, Died):
                self._replace(number, place, report)
            else:
                raise _about(report.error(), place)

    def _replace(self, number: int, place: _Place, died: Died) -> None:
        place.deaths += 1
        place.worker.end(now=True)
        if place.deaths >= DEATHS:
            what = f"scoring {_rows(place.units[0])}" if place.ready and place.units else "loading its detector"
            raise GroundwireError(
                f"a worker died {place.deaths} times while {what}: {died.how}",
                expected="workers that live; the system kills processes when memory runs out",
                remedy="start fewer workers (--workers) or smaller ones (--dtype); what they last wrote to standard "
                "error may say more",
            )
        place.worker, place.ready = self.start(number), False
        for unit in place.units:
            place.worker.send(unit)

    def _end(self, *, now: bool) -> None:
        places, self._places = self._places, {}
        for place in places.values():
            with suppress(Exception):  # all are to be ended, also where the first will not
                place.worker.end(now=now)


def _about(error: GroundwireError, place: _Place) -> GroundwireError:
    if place.ready and place.units:
        error.add_note(f"That was while scoring {_rows(place.units[0])}.")
    return error


def _rows(unit: Unit) -> str:
    first, last = min(unit.places) + 1, max(unit.places) + 1
    return f"row {first} of the input" if first == last else f"rows {first} to {last} of the input"
