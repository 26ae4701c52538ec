"""Clients that vanish, queues that are full, models that break and servers that stop, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.server import reply
from groundwire.server.settings import Settings
from groundwire.types import Request, Step

URL = "/v1/chat/completions"
ANSWER = " ".join(["The bridge opened in 1931 and is long."] * 5)
LAST = "long."


def paced(seconds: float = 0.01, fail: Callable[[Request, int], bool] = lambda *_: False) -> Detector:
    """A fake detector that takes its time over every word, and breaks where it is told to."""
    detector = fake_detector({"open?": ANSWER})
    plain: Callable[..., Iterator[Step]] = detector.engine.stream  # type: ignore[attr-defined]

    def stream(request: Request, *args: Any) -> Iterator[Step]:
        for i, step in enumerate(plain(request, *args)):
            time.sleep(seconds)
            if fail(request, i):
                raise RuntimeError("a secret of the model")
            yield step

    detector.engine.stream = stream  # type: ignore[attr-defined]
    return detector


def body(content: str = "open?", **fields: Any) -> dict[str, Any]:
    return {"model": "fake", "messages": [{"role": "user", "content": content}], **fields}


def own_threads() -> set[str]:
    """Threads but those of asyncio's pool, of which there are never more than a few."""
    return {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}


def settle(server: Any, seconds: float = 10) -> None:
    """Wait until nothing is under way."""
    loop, deadline = server.app.state.loop, time.monotonic() + seconds
    while loop.active or loop.waiting:
        assert time.monotonic() < deadline, f"{loop.active} active and {loop.waiting} waiting were left"
        time.sleep(0.01)


def events(lines: Iterator[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def leave(server: Any, fields: dict[str, Any], *, after: float | None = None) -> None:
    """Send a request and close the connection: `after` so many seconds, or else in the middle of the stream."""
    with server.connect() as socket:
        data = json.dumps(body(**fields)).encode()
        head = (
            f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        )
        socket.sendall(head.encode() + data)
        if after is None:
            received = b""
            while b'"content":"The"' not in received:
                more = socket.recv(4096)
                assert more, received  # an error, and the connection is closed
                received += more
        else:
            time.sleep(after)


@pytest.mark.parametrize(
    ("fields", "after"),
    [
        ({"stream": True}, None),
        ({"stream": True, "n": 4}, None),
        ({}, 0.05),
        ({"stream": True, "hallucination": {"policy": "hold"}}, 0.05),
    ],
)
def test_a_client_that_vanishes_stops_its_answer(served, fields, after):
    server = served(detector=paced(0.2))
    leave(server, fields, after=after)
    start = time.monotonic()
    settle(server)
    assert time.monotonic() - start < 5  # an answer takes 45 steps of 200 ms


def test_a_client_that_vanishes_from_the_queue_is_forgotten(served):
    server = served(detector=paced(0.2), settings=Settings(max_batch=1))
    with server.client.stream("POST", URL, json=body(stream=True)) as first:
        next(first.iter_lines())
        for stream in (True, False):
            leave(server, {"stream": stream}, after=0.05)
        deadline = time.monotonic() + 30
        while server.app.state.loop.waiting:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert server.app.state.loop.active == 1
    settle(server)


def test_500_disconnects_leave_nothing(served):
    server = served(detector=paced(0.001))
    threads = own_threads()

    async def run() -> None:
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60, limits=limits) as client:

            async def vanish(i: int) -> None:
                async with client.stream("POST", URL, json=body(stream=True, n=1 + i % 3)) as response:
                    async for _ in response.aiter_raw():
                        return

            async def one(i: int) -> None:
                async with gate:
                    await vanish(i)

            gate = asyncio.Semaphore(40)
            await asyncio.gather(*map(one, range(500)))

    asyncio.run(run())
    settle(server, 30)
    assert own_threads() == threads
    assert len(server.app.state.loop._active) == len(server.app.state.loop._waiting) == 0
    assert not server.app.state.loop._dropped
    assert server.client.post(URL, json=body("hello you", stream=False)).status_code == 200


def test_a_full_queue_is_429_with_a_time_to_retry(served):
    server = served(detector=paced(0.02), settings=Settings(max_batch=1, max_queue=1))

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
            return await asyncio.gather(
                *(client.post(URL, json=body(f"say number{i}", stream=bool(i % 2))) for i in range(12))
            )

    found = asyncio.run(run())
    assert {response.status_code for response in found} == {200, 429}
    for i, response in enumerate(found):
        if response.status_code == 429:
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"]["code"] == "queue_full"
        else:
            assert f"number{i}" in response.text


def test_a_model_that_breaks_mid_stream_is_an_event_and_tells_nothing(served, caplog):
    server = served(detector=paced(0, fail=lambda request, i: "bad" in request.messages[-1]["content"] and i == 2))
    with server.client.stream("POST", URL, json=body("bad words that go on", stream=True)) as response:
        assert response.status_code == 200
        lines = list(response.iter_lines())
    found = events(iter(lines))
    assert found[-1]["error"]["code"] == "engine_failed"
    assert "data: [DONE]" not in lines
    assert "secret" not in "".join(lines)
    assert "a secret of the model" in caplog.text
    assert server.client.post(URL, json=body("good words")).status_code == 200
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.APIError, match="The model failed"):
            list(client.chat.completions.create(**body("bad words that go on", stream=True)))
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(**body("bad words that go on"))


def test_a_server_that_stops_finishes_what_is_under_way(served):
    server = served(detector=paced(0.02), settings=Settings(shutdown_seconds=20))
    with server.client.stream("POST", URL, json=body(stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        server.server.should_exit = True
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert events(iter(rest))[-1]["choices"][0]["hallucination"]["status"] == "not_checked"


def test_a_server_that_cannot_wait_says_so(served):
    server = served(detector=paced(0.2), settings=Settings(shutdown_seconds=1))
    with server.client.stream("POST", URL, json=body(stream=True)) as response:
        lines = response.iter_lines()
        next(lines)
        server.server.should_exit = True
        found = events(lines)
    assert found[-1]["error"]["code"] == "shutting_down"


def test_the_first_word_does_not_wait_for_the_check(served):
    server = served(detector=paced(0.2))
    start = time.monotonic()
    with server.client.stream("POST", URL, json=body(stream=True)) as response:
        for line in response.iter_lines():
            if '"content":"The"' in line:
                break
        assert time.monotonic() - start < 5  # all of it takes 9 seconds


def test_one_who_left_is_logged_as_such(served, caplog):
    caplog.set_level("INFO")
    server = served(detector=paced(0.05))
    leave(server, {}, after=0.05)
    settle(server)
    deadline = time.monotonic() + 30
    while not (found := [r.fields for r in caplog.records if getattr(r, "fields", {}).get("path") == URL]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found[0]["status"] == reply.CLOSED
