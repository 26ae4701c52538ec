"""Worker processes on this machine, each with a detector of its own and its share of the cores."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pickle import PicklingError  # what `Process.start` raises; nothing is unpickled here but what workers send
from queue import SimpleQueue

from groundwire.batch.crew import Crew, Died, Ready, Report, Worker
from groundwire.batch.described import Described
from groundwire.batch.failure import Failure
from groundwire.batch.recipe import Load, Recipe, limit_threads
from groundwire.batch.unit import BatchDetector, Options, Unit, score_unit
from groundwire.errors import InputError
from groundwire.memory import keep_freed_memory

PATIENCE = 10.0  # seconds for a worker to end by itself


class WorkersRunner(Crew):
    """Runs units on `workers` processes (spawned, not forked: CUDA and threads survive no fork).

    load: makes a detector in each; a `Recipe`, or a function that can be imported there. On CUDA, worker i of a recipe
    takes GPU i, starting over after the last.
    Raises InputError where `load` cannot be sent to another process.
    """

    def __init__(self, load: Load, options: Options, *, workers: int) -> None:
        super().__init__(workers)
        self.load, self.options = load, options

    def start(self, number: int) -> Worker:
        """See `Crew.start`."""
        load = self.load.on_worker(number) if isinstance(self.load, Recipe) else self.load
        threads = max(1, cores() // self.workers)
        return _Process(load, self.options, threads)

    def wait(self, workers: Mapping[int, Worker], *, block: bool) -> list[tuple[int, Report]]:
        """See `Crew.wait`."""
        numbers = {worker.pipe: n for n, worker in workers.items() if isinstance(worker, _Process)}
        ready = wait(list(numbers), timeout=None if block else 0)
        found = {numbers[pipe]: pipe for pipe in ready if isinstance(pipe, Connection)}
        return [(n, worker.report()) for n in found if isinstance(worker := workers[n], _Process)]


class _Process:
    """This process's end of a worker."""

    def __init__(self, load: Load, options: Options, threads: int) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, load, options, threads), daemon=True)
        try:
            with _without_interrupts():
                self.process.start()
        except (PicklingError, AttributeError, TypeError) as error:
            self.pipe.close()
            raise InputError(
                f"{load!r} cannot be sent to a worker: {error}",
                expected="a Recipe, or a function that a module defines",
                remedy="move it to a module",
            ) from error
        finally:
            theirs.close()  # so that the pipe ends when the worker does

    def send(self, unit: Unit) -> None:
        """See `Worker.send`."""
        with suppress(OSError):
            self.pipe.send(unit)

    def report(self) -> Report:
        """What it has to say, once its pipe can be read."""
        try:
            report: Report = self.pipe.recv()
        except (EOFError, OSError):  # OSError: it died in the middle of a report
            self.process.join(PATIENCE)
            return Died(_how(self.process.exitcode))
        return report

    def end(self, *, now: bool) -> None:
        """See `Worker.end`."""
        self.pipe.close()  # at which a worker ends by itself
        self.process.join(0 if now else PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _work(pipe: Connection, load: Load, options: Options, threads: int) -> None:
    """The life of a worker: it ends when the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; the process that started it ends it
    units: SimpleQueue[Unit] = SimpleQueue()
    # Read at once: were both ends to write, each would wait for the other to read.
    threading.Thread(target=_receive, args=(pipe, units), daemon=True).start()
    limit_threads(threads)
    keep_freed_memory()
    with suppress(OSError):  # nobody listens any more
        try:
            detector = load()
        except Exception as error:
            pipe.send(Failure.of(error))
            return
        pipe.send(Ready(Described.of(detector)))
        while True:
            pipe.send(_scored(detector, units.get(), options))


def _scored(detector: BatchDetector, unit: Unit, options: Options) -> Report:
    try:
        return score_unit(detector, unit, options)
    except Exception as error:
        return Failure.of(error)


def _receive(pipe: Connection, units: SimpleQueue[Unit]) -> None:
    try:
        while True:
            units.put(pipe.recv())
    except (EOFError, OSError):
        os._exit(0)  # in the middle of its work or not: whoever wanted it is gone


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started within inherits that Ctrl-C is blocked, from its first instruction on."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _how(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code >= 0:
        return f"it ended with exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
