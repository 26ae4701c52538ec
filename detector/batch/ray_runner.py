"""Actors of a Ray cluster, each with a detector of its own: several machines, or several GPUs."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from groundwire.batch.crew import Crew, Died, Ready, Report, Worker
from groundwire.batch.described import Described
from groundwire.batch.failure import Failure
from groundwire.batch.recipe import Load, Recipe, limit_threads
from groundwire.batch.unit import BatchDetector, Options, Unit, score_unit
from groundwire.batch.workers import cores
from groundwire.errors import GroundwireError, MissingExtra
from groundwire.memory import keep_freed_memory

logger = logging.getLogger(__name__)
PATIENCE = 120.0  # seconds without a report after which it is said what may be wrong
LOCAL = "local"  # Ray's name for a cluster on this machine that ends with the program


class RayRunner(Crew):
    """Runs units on `workers` actors.

    load: makes a detector in each; a `Recipe`, or a function that can be imported there. Groundwire has to be installed
    on every machine of the cluster.
    address: of the cluster, as `ray.init` takes it; None takes the one the program is connected to, else RAY_ADDRESS,
    else starts one on this machine.
    gpus: for an actor, a fraction to share one; None is 1 where a recipe's device is "cuda", else 0. cpus: for an
    actor; None is its share of this machine where the cluster is started here, else 1.
    Raises MissingExtra without Ray; GroundwireError where the cluster cannot be reached.
    """

    def __init__(
        self,
        load: Load,
        options: Options,
        *,
        workers: int,
        address: str | None = None,
        gpus: float | int | None = None,
        cpus: float | int | None = None,
    ) -> None:
        super().__init__(workers)
        self.load, self.options, self.address = load, options, address
        on_gpu = isinstance(load, Recipe) and (load.device.startswith("cuda") or load.engine == "vllm")
        self.gpus = float(on_gpu if gpus is None else gpus)
        self.cpus = cpus
        self._ray = ray_library()
        self._ours = False  # whether this runner connected, and so has to disconnect

    def __enter__(self) -> RayRunner:
        if not self._ray.is_initialized():
            self._connect()
        try:
            super().__enter__()
        except BaseException:
            self._disconnect()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._disconnect()

    def start(self, number: int) -> Worker:
        """See `Crew.start`. An actor waits until the cluster has room for it."""
        made = self._ray.remote(num_cpus=self._cpus, num_gpus=self.gpus, max_restarts=0)(_Scorer)
        return _Actor(self._ray, made.remote(self.load, self.options, max(1, int(self._cpus))))

    def wait(self, workers: Mapping[int, Worker], *, block: bool) -> list[tuple[int, Report]]:
        """See `Crew.wait`."""
        actors = {n: worker for n, worker in workers.items() if isinstance(worker, _Actor) and worker.due}
        numbers = {actor.due[0]: n for n, actor in actors.items()}
        if not numbers:
            return []
        ready, _ = self._ray.wait(list(numbers), num_returns=1, timeout=PATIENCE if block else 0)
        while block and not ready:
            self._hint(len(actors))
            ready, _ = self._ray.wait(list(numbers), num_returns=1)
        return [(numbers[each], actors[numbers[each]].report()) for each in ready]

    def _hint(self, actors: int) -> None:
        free = self._ray.available_resources()
        room = ", ".join(f"{free.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
        logger.warning(
            "%d actors say nothing yet: they load, score, or wait for room in the cluster; free are %s, an actor needs "
            "%g CPU and %g GPU",
            actors,
            room,
            self._cpus,
            self.gpus,
        )

    @property
    def _cpus(self) -> float:
        return 1.0 if self.cpus is None else float(self.cpus)

    def _connect(self) -> None:
        address = self.address or os.environ.get("RAY_ADDRESS") or LOCAL
        settings: dict[str, Any] = {}
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports home
            if self.cpus is None:
                self.cpus = max(1, cores() // self.workers)
            settings = {"num_cpus": max(cores(), int(self.cpus * self.workers)), "include_dashboard": False}
        ended = signal.getsignal(signal.SIGTERM)
        try:
            self._ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
        except (OSError, RuntimeError, ValueError) as error:
            raise GroundwireError(
                f"no Ray cluster at {address!r}: {error}",
                expected="the address of a running cluster, or none to start one here",
                remedy="correct --ray-address or RAY_ADDRESS, or start the cluster: ray start --head",
            ) from error
        self._ours = True
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ended)  # Ray has put its own, which ends the program without a word

    def _disconnect(self) -> None:
        if self._ours:
            self._ray.shutdown()
            self._ours = False


class _Actor:
    """This process's end of an actor. due: what it is to give back, in order."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.due: deque[Any] = deque([actor.load.remote()])

    def send(self, unit: Unit) -> None:
        """See `Worker.send`."""
        self.due.append(self._actor.score.remote(unit))

    def report(self) -> Report:
        """What it has to say, once the first that is due is there."""
        try:
            report: Report = self._ray.get(self.due.popleft())
        except self._ray.exceptions.RayTaskError as error:  # outside of what the actor catches: it cannot be rebuilt
            return Failure.of(error)
        except self._ray.exceptions.RayError as error:
            return Died(" ".join(str(error).split())[:400])
        return report

    def end(self, *, now: bool) -> None:
        """See `Worker.end`. Nothing in an actor needs time to tidy up."""
        self._ray.kill(self._actor)


class _Scorer:
    """The actor."""

    def __init__(self, load: Load, options: Options, threads: int) -> None:
        limit_threads(threads)
        keep_freed_memory()
        self._load, self._options = load, options
        self._detector: BatchDetector | None = None

    def load(self) -> Report:
        """Load the detector."""
        try:
            self._detector = self._load()
        except Exception as error:
            return Failure.of(error)
        return Ready(Described.of(self._detector))

    def score(self, unit: Unit) -> Report:
        """Score a unit."""
        try:
            if self._detector is None:
                raise GroundwireError("the detector could not be loaded")
            return score_unit(self._detector, unit, self._options)
        except Exception as error:
            return Failure.of(error)


def ray_library() -> Any:
    """The module `ray`. Raises MissingExtra without it."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    return ray
