"""The one thread that owns the model: requests decode together in it and answers are scored between their steps.

The event loop's side only queues and waits. Everything that comes back goes through one call into the event loop per
step. Work that fails ends the requests it concerns, never the thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

from groundwire.answering import Answering, Progress
from groundwire.detector import Detector
from groundwire.errors import GroundwireError, InputError, PromptTooLong
from groundwire.prompts import render
from groundwire.server.errors import ApiError
from groundwire.server.jobs import EngineFailed, QueueFull, Scoring, Stopping, Stream, scored
from groundwire.types import Detection, Example, Request

logger = logging.getLogger(__name__)

SLICE = 8  # answers to one prompt that are scored at once between two steps, while streams wait
SLICE_IDLE = 32  # and where nothing is being generated
POLL = 0.02  # seconds between looks at what is left when stopping
JOIN = 30.0  # seconds for the thread to end its last step


class EngineLoop:
    """Generates up to `max_batch` answers at once; `max_queue` more may wait, and as many jobs of scoring."""

    def __init__(self, detector: Detector, *, max_batch: int = 8, max_queue: int = 64) -> None:
        self.detector, self.max_batch, self.max_queue = detector, max_batch, max_queue
        self._changed = threading.Condition()  # guards all of the following
        self._waiting: deque[Stream] = deque()
        self._scoring: deque[Scoring] = deque()
        self._active: dict[str, Stream] = {}
        self._dropped: set[str] = set()
        self._busy_scoring = False
        self._closing = self._stopped = self._failed = False
        self._pace = 1.0  # seconds an answer takes, lately
        self._owed = 0.0  # seconds of generating until answers are scored again: both get half of the time
        self._answering = Answering(detector)  # the thread's alone
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def waiting(self) -> int:
        """Requests and scoring jobs that have not begun."""
        return len(self._waiting) + len(self._scoring)

    @property
    def active(self) -> int:
        """Answers being generated."""
        return len(self._active)

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread is not None and self._thread.is_alive() and not (self._closing or self._stopped)

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="groundwire-engine", daemon=True)
        self._thread.start()

    async def stop(self, timeout: float) -> None:
        """Take nothing new, wait `timeout` seconds for what is there, end the rest with an error, end the thread."""
        with self._changed:
            self._closing = True
        deadline = asyncio.get_running_loop().time() + timeout
        while self._left() and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL)
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN)

    # -- the event loop's side ------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request], *, admitted: bool = False, shrink: bool = False) -> list[Stream]:
        """Queue requests, all or none; close every stream. Raises QueueFull, Stopping; InputError on an id in use.

        admitted: they belong to a request that was let in before: they go first, and are never refused.
        """
        streams = [Stream(r, self._close, shrink=shrink) for r in requests]
        with self._changed:
            self._check_ids([request.id for request in requests])
            self._admit(len(streams), admitted, self.max_batch + self.max_queue - len(self._active), self._waiting)
            if admitted:
                self._waiting.extendleft(reversed(streams))
            else:
                self._waiting.extend(streams)
            self._changed.notify()
        return streams

    async def generate(self, request: Request) -> AsyncGenerator[Progress]:
        """The progress of one request. Closing the iterator drops the request."""
        (stream,) = self.submit([request])
        try:
            async for progress in stream:
                yield progress
        finally:
            stream.close()

    async def score(self, examples: Sequence[Example], *, admitted: bool = False) -> list[Detection]:
        """Detections of answers that exist, in order. Raises QueueFull, Stopping, EngineFailed."""
        if not examples:
            return []
        job = Scoring(examples, asyncio.get_running_loop().create_future())
        with self._changed:
            self._admit(1, admitted, self.max_queue, self._scoring)
            if admitted:
                self._scoring.appendleft(job)
            else:
                self._scoring.append(job)
            self._changed.notify()
        try:
            return await job.result
        finally:
            with self._changed:
                if job in self._scoring:  # given up
                    self._scoring.remove(job)

    def _check_ids(self, ids: Sequence[str]) -> None:
        used = {*self._active, *(stream.request.id for stream in self._waiting)}
        if len(set(ids)) < len(ids) or not used.isdisjoint(ids):
            raise InputError("an id that is in use", expected="one for each request", remedy="number the requests")

    def _admit(self, count: int, admitted: bool, room: int, queue: deque[Any]) -> None:
        if self._stopped or (self._closing and not admitted) or self._thread is None:
            raise self._ended()
        if admitted:
            return
        if count > self.max_batch + self.max_queue:
            limit = self.max_batch + self.max_queue
            raise ApiError(400, f"{count} answers at once; at most {limit} fit here.", param="n", code="invalid_value")
        if len(queue) + count > room:
            raise QueueFull(max(1, min(60, math.ceil(self._pace * (1 + len(queue) / self.max_batch)))))

    def _close(self, stream: Stream) -> None:
        with self._changed:
            if stream in self._waiting:
                self._waiting.remove(stream)
            elif self._active.get(stream.request.id) is stream:
                self._dropped.add(stream.request.id)
                self._changed.notify()

    def _left(self) -> bool:
        with self._changed:
            return bool(self._waiting or self._active or self._scoring or self._busy_scoring)

    # -- the thread's side ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while work := self._next():
                self._turn(*work)
        except Exception:
            logger.exception("the engine has ended")
            self._failed = True
        with self._changed:
            self._stopped = True
            rest: list[Stream | Scoring] = [*self._active.values(), *self._waiting, *self._scoring]
            self._active.clear()
            self._waiting.clear()
            self._scoring.clear()
        self._send([(job, self._ended()) for job in rest])

    def _next(self) -> tuple[set[str], list[Stream]] | None:
        """Wait for work: the requests to drop and those that join. None when stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_work())
            if self._stopped:
                return None
            dropped, self._dropped = self._dropped, set()
            for name in dropped:
                self._active.pop(name, None)
            joining = []
            while self._waiting and len(self._active) < self.max_batch:
                stream = self._waiting.popleft()
                self._active[stream.request.id] = stream
                joining.append(stream)
        return dropped, joining

    def _ended(self) -> ApiError:
        return EngineFailed() if self._failed else Stopping()

    def _has_work(self) -> bool:
        return bool(self._waiting or self._active or self._scoring or self._dropped)

    def _turn(self, dropped: set[str], joining: Sequence[Stream]) -> None:
        """Let requests go and come, advance all by a step, score a little."""
        try:
            for name in dropped:
                self._answering.drop(name)
            self._send([(stream, self._join(stream)) for stream in joining])
            start = monotonic()
            progress = self._answering.step()
            self._owed -= monotonic() - start
        except Exception:
            logger.exception("a step failed; %d answers end with it", len(self._active))
            self._fail()
            return
        self._deliver(progress)
        if self._owed <= 0 or not self._active:
            start = monotonic()
            self._score()
            self._owed = monotonic() - start

    def _join(self, stream: Stream) -> int | Exception:
        """Prompt tokens of a request that is now under way, else why it is not."""
        request = stream.request
        try:
            try:
                return self._answering.add(request)
            except PromptTooLong:
                if not stream.shrink:
                    raise  # before the prompt, perhaps of megabytes, is made into tokens once more
                room = self.detector.engine.context - len(render(self.detector.tokenizer, request.messages))
                if not 1 <= room < request.sampling.max_tokens:
                    raise
                shorter = replace(request.sampling, max_tokens=room)
                return self._answering.add(replace(request, sampling=shorter))
        except Exception as error:
            with self._changed:
                del self._active[request.id]
            if isinstance(error, GroundwireError):
                return error
            logger.exception("a request could not be begun")
            return EngineFailed()

    def _deliver(self, progress: Sequence[Progress]) -> None:
        events = []
        with self._changed:
            for item in progress:
                stream = self._active.get(item.id)
                if stream is None:
                    continue
                events.append((stream, item))
                if item.step.finish_reason is not None:
                    del self._active[item.id]
                    self._pace += 0.1 * (stream.age() - self._pace)
        self._send(events)

    def _score(self) -> None:
        """A slice of the first job; what is left of it goes to the end of the queue, so that small ones get through."""
        with self._changed:
            if not self._scoring:
                return
            job = self._scoring.popleft()
            self._busy_scoring = True
            count = SLICE if self._active else SLICE_IDLE
        job.found += scored(self.detector, job.next(count))
        done = len(job.found) == len(job.examples)
        with self._changed:
            self._busy_scoring = False
            if not done and not job.result.done():
                self._scoring.append(job)
        if done:
            self._send([(job, job.found)])

    def _fail(self) -> None:
        """End every answer under way and begin afresh."""
        with self._changed:
            failed = list(self._active.values())
            self._active.clear()
            self._dropped.clear()
        self._send([(stream, EngineFailed()) for stream in failed])
        self._answering = Answering(self.detector)

    def _send(self, events: Sequence[tuple[Any, Any]]) -> None:
        if not events or self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(_put, events)
        except RuntimeError:  # the event loop is closed, and nobody waits any more
            logger.debug("%d events came after the end", len(events))


def _put(events: Sequence[tuple[Any, Any]]) -> None:
    for receiver, event in events:
        receiver.put(event)
