"""Bodies that are too large or too slow, and requests that take too long: answered, and nothing piles up."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest

from groundwire.server.limits import DRAIN, Limits
from groundwire.server.settings import Settings

LIMIT = 10_000


@pytest.fixture(scope="module")
def server(serving):
    with serving(settings=Settings(max_body_bytes=LIMIT, body_timeout=1.0, request_timeout=2.0)) as running:

        @running.app.get("/sleep")
        async def sleep() -> None:
            await asyncio.sleep(60)

        yield running


def padded(size):
    """A body of exactly `size` bytes."""
    body = json.dumps({"prompt": "a", "response": "b", "pad": ""}).encode()
    return body[:-2] + b"x" * (size - len(body)) + body[-2:]


def chunks(body, size=1000):
    return (body[i : i + size] for i in range(0, len(body), size))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(server, chunked):
    for size, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        content = chunks(padded(size)) if chunked else padded(size)
        reply = server.client.post("/v1/detect", content=content, headers={"content-type": "application/json"})
        assert reply.status_code == status
    assert reply.json()["error"]["code"] == "request_too_large"
    assert reply.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_sender_of_far_too_much_sees_the_answer(server, chunked):
    body = b"x" * (LIMIT * (DRAIN - 1))
    reply = server.client.post("/v1/detect", content=chunks(body) if chunked else body)
    assert reply.status_code == 413


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/health", 405)])
def test_a_body_nobody_reads_does_not_hide_the_answer(server, path, status):
    for content in (b"x" * LIMIT, chunks(b"x" * LIMIT * 5)):
        assert server.client.post(path, content=content).status_code == status


def test_whoever_asks_before_sending_is_told_at_once(server):
    with server.connect() as connection:
        head = "POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\nexpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_answered_and_does_not_hold_up_others(server):
    with server.connect() as connection:
        head = "POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
        start = time.monotonic()
        connection.sendall(head.encode())
        assert server.client.get("/health").elapsed.total_seconds() < 0.9
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")
        assert 0.9 < time.monotonic() - start < 10


def test_a_body_that_drips_must_be_done_in_time_too(server):
    def drip():
        yield b'{"inputs": ['
        for _ in range(40):
            time.sleep(0.1)
            yield b" "

    start = time.monotonic()
    reply = server.client.post("/v1/detect", content=drip(), headers={"content-type": "application/json"})
    assert reply.status_code == 408
    assert time.monotonic() - start < 10


def test_a_client_that_leaves_while_sending_costs_nothing(server):
    threads = threading.active_count()
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(b"POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    time.sleep(0.2)
    assert server.client.get("/ready").json() == {"status": "ready", "active": 0, "waiting": 0}
    assert threading.active_count() <= threads
    assert not server.server.server_state.tasks or len(server.server.server_state.tasks) <= 1


def test_a_request_that_takes_too_long_is_ended(server):
    reply = server.client.get("/sleep")
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "timeout"


async def nothing(*_):
    raise NotImplementedError


def test_a_timeout_of_the_app_itself_stays_one():
    async def fails(scope, receive, send):
        raise TimeoutError("its own")

    limits = Limits(fails, max_body_bytes=1, body_timeout=1.0, timeout=1.0)
    with pytest.raises(TimeoutError, match="its own"):
        asyncio.run(limits({"type": "http", "headers": []}, nothing, nothing))


def test_bytes_are_not_kept():
    """However much is sent beyond the limit, at most DRAIN times the limit is even read."""
    read = 0

    async def receive():
        nonlocal read
        read += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def takes(scope, receive, send):
        while True:
            await receive()

    limits = Limits(takes, max_body_bytes=5000, body_timeout=60.0, timeout=60.0)
    with pytest.raises(Exception, match="larger than 5000 bytes"):
        asyncio.run(limits({"type": "http", "headers": []}, receive, nothing))
    assert read == DRAIN * 5000 + 1000
