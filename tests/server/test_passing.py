"""A stream's chunks and their verdicts in order, with an upstream and a reader that take their time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from groundwire.conversation import found_passages
from groundwire.engines.fake import fake_detector
from groundwire.passages import passages_of
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.errors import ApiError
from groundwire.server.judge import Judge
from groundwire.server.metrics import Metrics
from groundwire.server.options import Options
from groundwire.server.passing import Passing
from groundwire.server.permission import rules_for
from groundwire.server.relay import Order, Relay
from groundwire.server.render import Show
from groundwire.server.settings import Settings
from groundwire.server.shapes import ChatShape
from groundwire.server.tracing import Tracing
from groundwire.types import Detection, Example

FOUND = found_passages([{"role": "user", "content": "When?"}], passages_of(["The bridge opened in 1931."]))


class Reader(EngineLoop):
    """An engine loop, without its thread, that answers when it is let."""

    def __init__(self, free: bool = True) -> None:
        super().__init__(fake_detector())
        self.free, self.cancelled = asyncio.Event(), 0
        if free:
            self.free.set()

    async def score(self, examples: Sequence[Example], *, admitted: bool = False) -> list[Detection]:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return self.detector.score_batch(examples)


class Telling:
    """An upstream in this process that streams `parts`: chunks, errors to raise, and what to wait for."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def admitted(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def ask(self, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], name: str
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any]]]:
        yield self._said()

    async def _said(self) -> AsyncGenerator[dict[str, Any]]:
        for part in self.parts:
            if isinstance(part, Exception):
                raise part
            if callable(part):
                await part()
            else:
                yield part


def chunk(*choices: tuple[int, str, str | None]) -> dict[str, Any]:
    return {"id": "u", "model": "m", "choices": [
        {"index": index, "delta": {"content": text}, "finish_reason": finish} for index, text, finish in choices
    ]}  # fmt: skip


USAGE = {"id": "u", "choices": [], "usage": {"completion_tokens": 4}}


def relay(reader: Reader, chunks: Sequence[Any], *, n: int = 2) -> Relay:
    state = SimpleNamespace(metrics=Metrics(), tracing=Tracing(), verdict_log=None)
    request = Request(
        {"type": "http", "app": SimpleNamespace(state=state), "groundwire": {"notes": {}, "request_id": "r"}}
    )
    rules = rules_for(Options(), Settings(), reader.detector)
    judge = Judge(reader, "r", [FOUND], n)
    return Relay(request, Order(ChatShape(), {"model": "m"}, judge, Telling(chunks), rules, Show()))


async def events(source: Relay) -> list[Any]:
    return [await_read(data) async for data in Passing(source).events() if data]


def await_read(data: bytes) -> Any:
    found = data.removeprefix(b"data: ").strip()
    return "end" if found == b"[DONE]" else json.loads(found)


def summary(found: Sequence[Any]) -> list[Any]:
    """Each event in short: (index, text, flagged) of its choices, or what else it is."""
    out: list[Any] = []
    for one in found:
        if one == "end" or "error" in one:
            out.append(one if one == "end" else one["error"]["code"])
        elif not one["choices"]:
            out.append("usage")
        else:
            out += [
                (c["index"], c["delta"].get("content"), c.get("hallucination", {}).get("flagged"))
                for c in one["choices"]
            ]
    return out


def test_other_choices_overtake_one_that_waits_but_usage_does_not():
    async def run() -> Any:
        reader = Reader(free=False)

        async def let() -> None:
            reader.free.set()

        parts = [chunk((0, "In Tokyo", None)), chunk((0, ".", "stop")), chunk((1, "In 1931", None)), USAGE, let]
        return await events(relay(reader, [*parts, chunk((1, ".", "stop"))]))

    found = summary(asyncio.run(run()))
    assert found[:2] == [(0, "In Tokyo", None), (1, "In 1931", None)]
    assert found.index((0, ".", True)) < found.index("usage")
    assert sorted(found[2:4] + found[4:5], key=str) == sorted([(0, ".", True), "usage", (1, ".", False)], key=str)
    assert found[-1] == "end"


def test_several_choices_in_one_chunk():
    async def run() -> Any:
        return await events(
            relay(Reader(), [chunk((0, "In Tokyo", "stop"), (1, "In", None)), chunk((1, " 1931", "stop"))])
        )

    assert summary(asyncio.run(run())) == [(0, "In Tokyo", True), (1, "In", None), (1, " 1931", False), "end"]


def test_an_error_comes_after_the_verdicts_that_are_due():
    async def run() -> Any:
        failure = ApiError(502, "It broke.", code="broke")
        return await events(relay(Reader(), [chunk((0, "In Tokyo", "stop")), chunk((1, "In", None)), failure]))

    found = asyncio.run(run())
    assert summary(found) == [(0, "In Tokyo", True), (1, "In", None), (1, None, None), "broke"] or summary(found) == [
        (1, "In", None), (0, "In Tokyo", True), (1, None, None), "broke",
    ]  # fmt: skip
    assert found[-2]["choices"][0]["hallucination"]["reason"] == "capture_failed"


def test_a_fault_of_ours_is_not_hidden():
    async def run() -> Any:
        return await events(relay(Reader(), [chunk((0, "In", None)), KeyError("a")]))

    with pytest.raises(KeyError):
        asyncio.run(run())


def test_a_client_that_leaves_when_all_has_been_said_ends_all_checks():
    async def run() -> None:
        reader = Reader(free=False)
        source = Passing(relay(reader, [chunk((0, "In Tokyo", "stop")), chunk((1, "In 1931", "stop"))])).events()
        assert await anext(source) == b""
        verdicts = asyncio.ensure_future(anext(source))
        await asyncio.sleep(0.01)
        verdicts.cancel()
        await asyncio.gather(verdicts, return_exceptions=True)
        assert reader.cancelled == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_client_that_leaves_ends_checks_and_reading():
    async def run() -> None:
        reader, never = Reader(free=False), asyncio.Event()
        source = Passing(relay(reader, [chunk((0, "In Tokyo", "stop")), chunk((1, "In", None)), never.wait])).events()
        assert [await anext(source), await_read(await anext(source))["choices"][0]["index"]] == [b"", 1]
        await asyncio.sleep(0.01)
        await source.aclose()
        assert reader.cancelled == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
