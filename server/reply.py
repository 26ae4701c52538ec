"""An answered request on its way to the client: one JSON object, or server-sent events. Counted and logged here."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import Protocol, runtime_checkable

from fastapi import Request
from starlette.responses import JSONResponse, Response

from groundwire.server.disconnect import ClientGone, EventStream, unless_gone
from groundwire.server.errors import ApiError, api_error
from groundwire.server.events import Delta, Done, Event, Usage
from groundwire.server.logs import CLOSED, note
from groundwire.server.recording import keep
from groundwire.server.render import END, Renderer, headers, sse
from groundwire.server.tracing import Generated
from groundwire.server.verdict_log import Entry
from groundwire.types import Message

logger = logging.getLogger(__name__)


@runtime_checkable
class Source(Protocol):
    """Where the events of a request come from, such as `Answers`."""

    async def joined(self) -> float:
        """Wait until an answer begins; the seconds waited. Raises what keeps it from that."""

    def events(self) -> AsyncGenerator[Event]:
        """All events, those of each choice in order."""

    def close(self) -> None:
        """Drop what is left."""


class Reply:
    """One request being answered.

    asked: the messages of each choice, for the log. per_prompt: number of choices to each prompt. source: where the
    answers come from, as metrics and log name it.
    """

    def __init__(
        self,
        request: Request,
        answers: Source,
        renderer: Renderer,
        asked: Sequence[Sequence[Message]],
        *,
        per_prompt: int = 1,
        source: str = "engine",
    ) -> None:
        self._request, self._answers, self._renderer = request, answers, renderer
        self._asked, self._per_prompt, self._source = asked, per_prompt, source
        self._state = request.app.state
        self._start, self._queued = perf_counter(), 0.0

    async def whole(self) -> Response:
        """The response in one piece. Raises ApiError and InputError."""
        try:
            choices = await unless_gone(self._request.receive, self._collect())
        except ClientGone:
            return Response(status_code=CLOSED)
        finally:
            self._answers.close()
        usage = self._record(choices)
        return JSONResponse(self._renderer.whole(choices, usage), headers=headers(choices))

    async def stream(self, *, include_usage: bool) -> Response:
        """The response in events. Raises, before the first of them, what keeps the answer from beginning."""
        try:
            await unless_gone(self._request.receive, self._answers.joined())
        except ClientGone:
            self._answers.close()
            return Response(status_code=CLOSED)
        except BaseException:
            self._answers.close()
            raise
        return EventStream(self._events(include_usage=include_usage), self._answers.close)

    async def _collect(self) -> list[Done]:
        await self._joined()
        async with aclosing(self._answers.events()) as events:
            choices = [event async for event in events if isinstance(event, Done)]
        return sorted(choices, key=lambda done: done.index)

    async def _joined(self) -> None:
        self._queued = await self._answers.joined()
        self._state.metrics.stage("queue", self._queued)

    async def _events(self, *, include_usage: bool) -> AsyncGenerator[bytes]:
        choices: list[Done] = []
        first = True
        await self._joined()
        try:
            async with aclosing(self._answers.events()) as events:
                async for event in events:
                    for chunk in self._renderer.chunks(event):
                        yield sse(chunk)
                    if isinstance(event, Done):
                        choices.append(event)
                    elif first and isinstance(event, Delta):
                        first = False
                        self._state.metrics.stage("first_token", perf_counter() - self._start)
        except Exception as error:
            failure = api_error(error)
            if failure.status_code >= 500 and not isinstance(error, ApiError):
                logger.exception("a stream ended with an error")
            yield sse(failure.to_dict())
            return
        finally:
            usage = self._record(choices)
        if include_usage:
            yield sse(self._renderer.usage_chunk(usage))
        yield END

    def _record(self, choices: list[Done]) -> Usage:
        """Count what was answered, and log the verdicts where there is a log."""
        usage = Usage.of(choices, self._per_prompt)
        state = self._state
        state.metrics.tokens(prompt=usage.prompt_tokens, completion=usage.completion_tokens)
        note(
            self._request,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            flagged=sum(bool(done.verdict and done.verdict.flagged) for done in choices),
        )
        state.tracing.generated(
            Generated(
                self._renderer.id,
                self._renderer.operation,
                self._renderer.model,
                self._queued,
                perf_counter() - self._start - self._queued,
                usage.prompt_tokens,
                usage.completion_tokens,
                [done.finish_reason for done in choices],
                [(done.index, done.verdict) for done in choices if done.verdict is not None],
            )
        )
        for done in choices:
            if done.verdict is not None:
                name, asked = f"{self._renderer.id}-{done.index}", self._asked[done.index]
                keep(state, Entry(name, self._source, done.verdict, self._renderer.model, asked, done.answer))
        return usage
