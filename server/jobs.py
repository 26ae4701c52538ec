"""What waits for the engine's thread: streams of answers being generated, and answers to be scored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from time import monotonic

from groundwire.answering import Progress
from groundwire.detector import Detector
from groundwire.server.errors import ApiError
from groundwire.types import Detection, Example, Request

logger = logging.getLogger(__name__)


class QueueFull(ApiError):
    """As many requests wait as may. `retry_after` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            429,
            f"The server is at its limit of waiting requests. Try again in {retry_after} s.",
            code="queue_full",
            headers={"retry-after": str(retry_after)},
        )
        self.retry_after = retry_after


class EngineFailed(ApiError):
    """The model failed in a step; what failed is in the log."""

    def __init__(self) -> None:
        super().__init__(500, "The model failed while it generated. Try again.", code="engine_failed")


class Stopping(ApiError):
    """The server is shutting down."""

    def __init__(self) -> None:
        super().__init__(503, "The server is shutting down.", code="shutting_down", headers={"retry-after": "5"})


class Stream:
    """The steps of one request as they come: first that it joined, then its progress. Close it when done with it.

    shrink: whether `max_tokens` may be cut to what the context leaves.
    """

    def __init__(self, request: Request, close: Callable[[Stream], None], *, shrink: bool) -> None:
        self.request, self.shrink = request, shrink
        self.begun, self.joined_after = monotonic(), 0.0
        self.over = False
        self._close = close
        self._prompt_tokens: int | None = None
        self._events: asyncio.Queue[int | Progress | Exception] = asyncio.Queue()

    async def joined(self) -> int:
        """Wait until the request is being generated; its prompt's tokens. Raises what kept it from that."""
        if self._prompt_tokens is None:
            event = await self._next()
            if not isinstance(event, int):
                raise EngineFailed
            self._prompt_tokens, self.joined_after = event, monotonic() - self.begun
        return self._prompt_tokens

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Progress:
        await self.joined()
        if self.over:
            raise StopAsyncIteration
        event = await self._next()
        if not isinstance(event, Progress):
            raise EngineFailed
        self.over = event.step.finish_reason is not None
        return event

    def close(self) -> None:
        """Have the engine forget the request, wherever it stands. Closing twice is fine."""
        self._close(self)

    def age(self) -> float:
        """Seconds since the request was queued."""
        return monotonic() - self.begun

    def put(self, event: int | Progress | Exception) -> None:
        """Called in the event loop, with what the engine's thread sends."""
        self._events.put_nowait(event)

    async def _next(self) -> int | Progress:
        event = await self._events.get()
        if isinstance(event, Exception):
            raise event
        return event


def scored(detector: Detector, examples: Sequence[Example]) -> list[Detection]:
    """Detections of answers; where they cannot be had together, one by one, each failing alone."""
    try:
        return detector.score_batch(examples)
    except Exception as error:
        if len(examples) > 1:
            return [found for example in examples for found in scored(detector, [example])]
        logger.exception("an answer was not checked")
        return [detector.not_checked("capture_failed", type(error).__name__)]


@dataclass(eq=False)
class Scoring:
    """Answers to be scored, a few at a time."""

    examples: Sequence[Example]
    result: asyncio.Future[list[Detection]]
    found: list[Detection] = field(default_factory=list)

    def next(self, count: int) -> Sequence[Example]:
        """The next examples that have no detection yet: at most `count`, all of one prompt, which is encoded once."""
        left = self.examples[len(self.found) : len(self.found) + count]
        return list(takewhile(lambda example: example.messages == left[0].messages, left))

    def put(self, event: list[Detection] | Exception) -> None:
        """Called in the event loop, with the result."""
        if self.result.done():  # given up by who asked
            return
        if isinstance(event, Exception):
            self.result.set_exception(event)
        else:
            self.result.set_result(event)
