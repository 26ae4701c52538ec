"""A stream that is passed on as it comes, with scores so far where there are any; each choice's last chunk waits for
its verdict.

Chunks of other choices overtake a chunk that waits. What concerns all choices, such as usage, does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from groundwire.server.errors import ApiError
from groundwire.server.judge import characters
from groundwire.server.relay import Relay, Ruled, event
from groundwire.server.render import END, running_field
from groundwire.server.shapes import Said, choices_of
from groundwire.server.upstream import TRUNCATED

Chunk = dict[str, Any]


@dataclass
class _Heard:
    """What the upstream has said of one choice so far."""

    texts: list[str] = field(default_factory=list)
    calls: bool = False
    ended: bool = False


class Passing:
    """The events of one stream. `events` may be read once."""

    def __init__(self, relay: Relay) -> None:
        self._relay, self._order, self._state = relay, relay.order, relay.state
        self._heard: dict[int, _Heard] = {}
        self._ruled: list[Ruled] = []
        self._waiting: dict[asyncio.Task[list[Ruled]], Chunk] = {}
        self._after: list[Chunk] = []  # for when nothing waits
        self._last: Chunk = {}
        self._usage: Any = None
        self._start, self._spoken = perf_counter(), False

    async def events(self) -> AsyncGenerator[bytes]:
        """Server-sent events; the first is empty, and says that the upstream answers."""
        path, body, upstream = self._order.shape.path, self._relay.body(stream=True), self._order.upstream
        try:
            with upstream.admitted():
                async with upstream.stream(path, body, self._relay.name) as chunks:
                    yield b""
                    failure = None
                    try:
                        async with aclosing(self._passed(chunks)) as passed:
                            async for out in passed:
                                yield out
                    except ApiError as error:
                        failure = error
                    for out in await self._ends(failure):
                        yield out
        finally:
            self._relay.record({**self._last, "usage": self._usage}, self._ruled)
            for task in self._waiting:  # the client is gone
                task.cancel()
            await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _passed(self, chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[bytes]:
        """Everything but the chunks that still wait when the upstream has said all."""
        reading: asyncio.Task[Chunk | None] | None = None
        try:
            while True:
                if reading is None and not self._waiting:
                    new = await _next(chunks)  # a task for each token would cost more than all else here
                else:
                    reading = reading or asyncio.ensure_future(_next(chunks))
                    await asyncio.wait({reading, *self._waiting}, return_when=asyncio.FIRST_COMPLETED)
                    for task in [task for task in self._waiting if task.done()]:
                        yield self._finished(self._waiting.pop(task), task.result())
                    for chunk in [] if self._waiting else self._drained():
                        yield event(chunk)
                    if not reading.done():
                        continue
                    new, reading = reading.result(), None
                if new is None:
                    return
                for chunk in self._take(new):
                    yield event(chunk)
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    def _take(self, chunk: Chunk) -> list[Chunk]:
        """What of a new chunk goes out at once: itself, or nothing."""
        self._last = {name: value for name, value in chunk.items() if name not in ("choices", "usage")}
        self._usage = chunk.get("usage") or self._usage
        ends = self._hear(chunk)
        if self._order.show.running and chunk.get("choices"):
            chunk = {**chunk, "choices": [self._with_running(choice) for choice in choices_of(chunk)]}
        if ends:
            self._waiting[asyncio.create_task(self._judge(ends))] = chunk
            return []
        if not chunk.get("choices") and self._waiting:
            self._after.append(chunk)
            return []
        return [chunk]

    def _with_running(self, choice: Mapping[str, Any]) -> Mapping[str, Any]:
        """A choice of a chunk with the score so far, where it says more of the answer, does not end it, and there is
        one."""
        shape = self._order.shape
        said = shape.said(choice)
        score = self._order.judge.running(said.index) if said.text and not said.finish_reason else None
        mirror = self._order.show.mirror
        return choice if score is None else shape.with_field(choice, running_field(score), mirror=mirror)

    def _hear(self, chunk: Chunk) -> list[Said]:
        """Keep what a chunk says; the choices that it ends, each with all that was said."""
        ends = []
        for choice in choices_of(chunk) if chunk.get("choices") else ():
            said = self._order.shape.said(choice)
            self._order.judge.asked(said.index)
            heard = self._heard.setdefault(said.index, _Heard())
            heard.texts.append(said.text)
            heard.calls |= said.calls
            if said.text and not self._spoken:
                self._spoken = True
                self._state.metrics.stage("first_token", perf_counter() - self._start)
            if said.finish_reason and not heard.ended:
                heard.ended = True
                ends.append(self._whole(said.index, said.finish_reason))
        return ends

    def _whole(self, index: int, finish_reason: str | None) -> Said:
        heard = self._heard[index]
        return Said(index, characters("".join(heard.texts)), heard.calls, finish_reason)

    async def _judge(self, said: list[Said]) -> list[Ruled]:
        if self._order.rules is None:
            return [self._relay.rule({}, one, None) for one in said]
        found = await self._order.judge.detections(said)
        return [self._relay.rule({}, one, detection) for one, detection in zip(said, found, strict=True)]

    def _finished(self, chunk: Chunk, ruled: list[Ruled]) -> bytes:
        """A chunk that ends choices, with their verdicts."""
        self._ruled += ruled
        ends = {one.done.index: one for one in ruled}
        choices = []
        for choice in choices_of(chunk):
            one = ends.get(self._order.shape.said(choice).index)
            choices.append(self._relay.ended(choice, one) if one else choice)
        return event({**chunk, "choices": choices})

    async def _ends(self, failure: ApiError | None) -> list[bytes]:
        """The last events: verdicts that are due, then the end, or why there is none."""
        out = [self._finished(chunk, await task) for task, chunk in self._waiting.items()]
        self._waiting.clear()
        out += [event(chunk) for chunk in self._drained()]
        open_ = [self._whole(index, None) for index, heard in self._heard.items() if not heard.ended]
        if failure is not None and failure.code == TRUNCATED and self._heard and not open_:
            failure = None  # it only left out its last event
        if open_:
            ruled = await self._judge(open_) if failure is None else self._broken(open_)
            self._ruled += ruled
            choices = [self._relay.ended(self._order.shape.last(one.done.index), one) for one in ruled]
            out.append(event({**self._last, "choices": choices}))
        return [*out, END if failure is None else event(failure.to_dict())]

    def _broken(self, said: list[Said]) -> list[Ruled]:
        """Of choices that broke off: that they were not checked."""
        if self._order.rules is None:
            return []
        return [self._relay.rule({}, one, self._order.judge.broken_off()) for one in said]

    def _drained(self) -> list[Chunk]:
        after, self._after = self._after, []
        return after


async def _next(chunks: AsyncGenerator[Chunk]) -> Chunk | None:
    return await anext(chunks, None)
