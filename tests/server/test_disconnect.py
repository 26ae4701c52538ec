from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from groundwire.server.disconnect import ClientGone, EventStream, unless_gone


async def never() -> dict[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> dict[str, Any]:
    return {"type": "http.disconnect"}


def test_work_ends_with_its_result():
    async def work() -> int:
        await asyncio.sleep(0)
        return 5

    assert asyncio.run(unless_gone(never, work())) == 5


def test_an_error_of_the_work_is_passed_on():
    async def work() -> int:
        raise KeyError("a")

    with pytest.raises(KeyError):
        asyncio.run(unless_gone(never, work()))


def test_work_is_cancelled_when_the_client_leaves():
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(ClientGone):
        asyncio.run(unless_gone(gone, work()))
    assert ended == [True]


def test_what_comes_before_the_disconnect_is_not_one():
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    with pytest.raises(ClientGone):
        asyncio.run(unless_gone(receive, never()))


def test_cancelling_ends_both_sides():
    async def run() -> None:
        task = asyncio.create_task(unless_gone(never, never()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def stream(receive: Any, *, fail: bool = False) -> tuple[list[Any], list[str]]:
    """Messages that were sent, and what was closed."""
    sent: list[Any] = []
    closed: list[str] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            if fail:
                raise KeyError("a")
            if receive is gone:
                await asyncio.Event().wait()
            yield b"data: 2\n\n"
        finally:
            closed.append("generator")

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await EventStream(events(), lambda: closed.append("answers"))({"type": "http"}, receive, send)
    except KeyError:
        closed.append("error")
    return sent, closed


def test_events_are_sent_as_they_come():
    sent, closed = asyncio.run(stream(never))
    assert dict(sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in dict(sent[0]["headers"])
    assert [m["body"] for m in sent[1:]] == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert [m["more_body"] for m in sent[1:]] == [True, True, False]
    assert closed == ["generator", "answers"]


def test_a_client_that_leaves_closes_everything():
    sent, closed = asyncio.run(stream(gone))
    assert sent[-1].get("more_body") is not False
    assert closed == ["generator", "answers"]


def test_an_error_closes_everything():
    _, closed = asyncio.run(stream(never, fail=True))
    assert closed == ["generator", "answers", "error"]


def test_a_stream_that_never_began_is_closed_too():
    closed = []

    async def events() -> AsyncGenerator[bytes]:
        yield b""

    async def send(_: Any) -> None:
        await asyncio.Event().wait()

    asyncio.run(EventStream(events(), lambda: closed.append("answers"))({"type": "http"}, gone, send))
    assert closed == ["answers"]
