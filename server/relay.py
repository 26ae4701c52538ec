"""A request that an upstream answers: its reply goes to the client as it came, with a verdict on each choice.

Where the rules hold answers back, the upstream is asked for all of them at once, streamed or not: what goes out is
decided first, then written in the form the client asked for.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from fastapi import Request
from starlette.responses import Response

from groundwire.server.disconnect import ClientGone, EventStream, unless_gone
from groundwire.server.errors import ApiError, clean
from groundwire.server.events import Attempt, Done
from groundwire.server.judge import Judge, characters
from groundwire.server.logs import CLOSED, note, request_id
from groundwire.server.observer import Observation
from groundwire.server.policies import FinishReason, Rules, better, rule, try_again
from groundwire.server.protocol_gateway import outgoing
from groundwire.server.recording import record
from groundwire.server.render import END, Show, field, headers
from groundwire.server.shapes import Said, Shape, choices_of
from groundwire.server.upstream import malformed
from groundwire.server.verdict_log import Entry
from groundwire.types import Detection, Verdict

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


@runtime_checkable
class Answerer(Protocol):
    """What answers: `Upstream`, or a server in this process. Bodies are OpenAI's, not to be changed; failures are
    ApiErrors. `path` is the API's, such as "chat/completions", `name` the request's id."""

    def admitted(self) -> AbstractContextManager[None]:
        """Room for a client's request until its verdicts are there. Raises QueueFull."""

    async def ask(self, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The reply to a request that is not streamed."""

    def stream(
        self, path: str, body: Mapping[str, Any], name: str
    ) -> AbstractAsyncContextManager[AsyncGenerator[dict[str, Any]]]:
        """The chunks of a streamed reply, which has begun. Leaving it ends the reply."""


@dataclass(frozen=True)
class Order:
    """What a client asked for.

    given: its request's body, passages included. rules: None where nothing is checked before it goes out. observe: the
    threshold for what is checked afterwards, None where nothing is.
    """

    shape: Shape
    given: Mapping[str, Any]
    judge: Judge
    upstream: Answerer
    rules: Rules | None
    show: Show
    observe: float | None = None


@dataclass(frozen=True)
class Ruled:
    """A choice of the upstream's with what was decided. said: what the upstream wrote."""

    choice: Mapping[str, Any]
    said: Said
    done: Done
    detection: Detection | None = None


class Relay:
    """One request on its way to the upstream and back."""

    def __init__(self, request: Request, order: Order) -> None:
        self.request, self.order, self.state = request, order, request.app.state
        self.name = request_id(request)

    async def whole(self) -> Response:
        """The response in one piece. Raises ApiError."""
        try:
            reply, ruled = await unless_gone(self.request.receive, self._answered())
        except ClientGone:
            return Response(status_code=CLOSED)
        self.record(reply, ruled)
        body = {**reply, "choices": [self.ended(self._worded(one), one) for one in ruled]}
        shown = headers([one.done for one in ruled])
        return Response(dumped(body), media_type="application/json", headers=shown)

    async def stream(self, events: AsyncGenerator[bytes] | None = None) -> Response:
        """The response as `events`, of which the first says that the upstream answers; without any, held back. Raises
        ApiError before that."""
        events = events or self._held()
        try:
            await unless_gone(self.request.receive, _first(events))
        except ClientGone:
            return Response(status_code=CLOSED)
        return EventStream(events, lambda: None)

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The request for the upstream."""
        return outgoing(self.order.given) if stream else outgoing(self.order.given, stream=None, stream_options=None)

    def rule(self, choice: Mapping[str, Any], said: Said, detection: Detection | None) -> Ruled:
        """What goes out of one choice. Without `detection`, all of it."""
        rules = self.order.rules
        if rules is None or detection is None:
            return Ruled(choice, said, Done(said.index, said.text, _finish(said), None, said.text))
        halted = self.order.judge.halted(said.index)
        outcome = rule(rules, said.text, _finish(said), detection, halted=halted)
        done = Done(said.index, outcome.text, outcome.finish_reason, outcome.verdict, said.text)
        return Ruled(choice, said, replace(done, redactions=outcome.redactions), detection)

    def ended(self, choice: Mapping[str, Any], one: Ruled) -> dict[str, Any]:
        """A choice, or the end of one, with why it ends and its verdict."""
        shape, show = self.order.shape, self.order.show
        ended = {**choice, "finish_reason": _finish_value(one)}
        return shape.with_field(ended, field(one.done, show), mirror=show.mirror)

    def record(self, reply: Mapping[str, Any], ruled: Sequence[Ruled]) -> None:
        """Count and log what was answered; have it observed where that is due. `reply` has id, model and usage."""
        usage = reply.get("usage")
        prompt, completion = (_count(usage, name) for name in COUNTS[:2])
        self.state.metrics.tokens(prompt=prompt, completion=completion)
        flagged = sum(bool(one.done.verdict and one.done.verdict.flagged) for one in ruled)
        note(self.request, prompt_tokens=prompt, completion_tokens=completion, flagged=flagged)
        model = reply.get("model") or self.order.given.get("model")
        model = clean(model) if isinstance(model, str) else ""
        judge, name = self.order.judge, reply.get("id")
        name = clean(name) if isinstance(name, str) and name else judge.name
        for one in ruled:
            example = replace(judge.example(one.said), id=f"{name}-{one.said.index}")  # the id that the client saw
            verdict, threshold = one.done.verdict, self.order.observe
            if verdict is not None:
                about = (example.id, judge.source, verdict, model)
                record(self.state, Entry(*about, messages=example.messages, response=one.done.answer))
            elif threshold is not None:
                observed = (example, judge.source, model, threshold, judge.reason(one.said))
                self.state.observer.offer(Observation(*observed, same_model=judge.same_model))

    async def _answered(self) -> tuple[dict[str, Any], list[Ruled]]:
        """The upstream's reply, and what is to become of its choices."""
        with self.order.upstream.admitted():
            return await self._asked()

    async def _asked(self) -> tuple[dict[str, Any], list[Ruled]]:
        order = self.order
        reply = await order.upstream.ask(order.shape.path, self.body(stream=False), self.name)
        ruled = await self._judged(choices_of(reply))
        if order.rules is None or order.rules.policy != "regenerate":
            return reply, ruled
        kept = []
        for one in ruled:
            if one.done.verdict is not None and one.done.verdict.flagged:
                one, usage = await self._better(one)
                reply["usage"] = _sum(reply.get("usage"), usage)
            kept.append(one)
        return reply, kept

    async def _judged(self, choices: Sequence[Mapping[str, Any]]) -> list[Ruled]:
        shape, judge = self.order.shape, self.order.judge
        said = [shape.said(choice, i) for i, choice in enumerate(choices)]
        said = [replace(one, text=characters(one.text)) for one in said]
        for one in said:
            judge.asked(one.index)
        found: Sequence[Detection | None] = [None] * len(said)
        if self.order.rules is not None:
            found = await judge.detections(said)
        return [self.rule(*parts) for parts in zip(choices, said, found, strict=True)]

    async def _better(self, first: Ruled) -> tuple[Ruled, Any]:
        """The better of a flagged choice and a second attempt; the usage of that. See `Answers`."""
        order, index = self.order, first.said.index
        critique = try_again((), first.said.text, first.detection) if first.detection else []
        messages, usage = [*order.given["messages"], *critique], None
        changes = {"messages": messages, "n": None, "stream": None, "stream_options": None}
        try:
            reply = await order.upstream.ask(order.shape.path, outgoing(order.given, **changes), self.name)
            usage, choices = reply.get("usage"), choices_of(reply)[:1]
            if not choices:
                raise malformed("it has no choices")
            (second,) = await self._judged([{**choice, "index": index} for choice in choices])
        except ApiError as error:
            second = self.rule({}, Said(index, ""), order.judge.failed(error.message))
        kept = second if better(_verdict(first), _verdict(second)) else first
        attempts = tuple(Attempt(one.said.text, _verdict(one), one is kept) for one in (first, second))
        verdict = replace(_verdict(kept), action="regenerate")
        return replace(kept, done=replace(kept.done, verdict=verdict, attempts=attempts)), usage

    def _worded(self, one: Ruled) -> Mapping[str, Any]:
        """The upstream's choice, unless the rules gave it other words: then nothing else of it is left."""
        own = one.done.text == one.said.text
        return one.choice if own else self.order.shape.reworded(one.choice, one.done.text)

    async def _held(self) -> AsyncGenerator[bytes]:
        """The events of a stream whose answers have all been ruled upon before it begins."""
        reply, ruled = await self._answered()
        yield b""
        self.record(reply, ruled)
        shape, show = self.order.shape, self.order.show
        envelope = {name: value for name, value in reply.items() if name not in ("choices", "usage")}
        envelope["object"] = shape.chunk_object
        nothing = {"usage": None} if show.usage else {}
        for one in ruled:
            last = self.ended(shape.last(one.done.index), one)
            for part in (shape.chunk(self._worded(one)), last):
                yield event({**envelope, "choices": [part], **nothing})
        if show.usage:
            yield event({**envelope, "choices": [], "usage": reply.get("usage")})
        yield END


def dumped(value: Any) -> bytes:
    """JSON of what came as JSON, with all that an upstream may put into it."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half a surrogate pair, whose other half is in the next chunk
        return json.dumps(value, separators=(",", ":")).encode()


class Sent(dict[str, Any]):
    """A chunk together with the event it came in, which is passed on as it stands while the chunk is not changed."""

    def __init__(self, chunk: Mapping[str, Any], event: bytes) -> None:
        super().__init__(chunk)
        self.event = event


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    if isinstance(value, Sent):
        return value.event
    return b"data: " + dumped(value) + b"\n\n"


async def _first(events: AsyncGenerator[bytes]) -> None:
    await anext(events)


def _finish(said: Said) -> FinishReason:
    """What the rules see of an upstream's own reason."""
    return "length" if said.finish_reason == "length" else "stop"


def _finish_value(one: Ruled) -> str | None:
    """The upstream's own reason, unless the rules gave another."""
    filtered = one.done.finish_reason == "content_filter"
    return "content_filter" if filtered else one.choice.get("finish_reason", one.said.finish_reason)


def _verdict(one: Ruled) -> Verdict:
    if one.done.verdict is None:
        raise ValueError("a choice without rules has no verdict")
    return one.done.verdict


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def _sum(first: Any, second: Any) -> Any:
    """Usage of two replies; details are those of the first."""
    if not isinstance(first, dict):
        return first
    return {**first, **{name: _count(first, name) + _count(second, name) for name in COUNTS}}
