"""A real server for the tests: uvicorn in a thread, on a free port, over the public fake unless a detector is given."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector

CONTEXT = [{"id": "b", "text": "The bridge opened in 1931 and is 642 metres long."}]
QUESTION = "When did the bridge open?"
FAITHFUL = "The bridge opened in 1931."
UNFAITHFUL = "The bridge opened in Tokyo."


@dataclass(frozen=True)
class Served:
    """A running server. `client` is httpx's, with `base_url`; `app.state` is what the routers see."""

    base_url: str
    app: Any
    server: uvicorn.Server
    client: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for tests that speak to the socket."""
        return "127.0.0.1", int(self.base_url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)


@contextmanager
def running(app: Any, **config: Any) -> Iterator[Served]:
    """`app` under uvicorn until the block ends, on a port of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, **config))
    thread = threading.Thread(target=server.run, name="uvicorn-of-a-test")
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the server did not start")
            time.sleep(0.005)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Served(url, app, server, client)
    finally:
        server.should_exit = True
        thread.join(60)
    if thread.is_alive():
        raise RuntimeError("the server did not stop")


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Served]]:
    """`with serving(settings=..., detector=...) as server:`, for fixtures that outlive a test."""
    from groundwire.server.app import create_app
    from groundwire.server.settings import Settings

    def serve(
        settings: Settings | None = None, detector: Detector | None = None, **config: Any
    ) -> AbstractContextManager[Served]:
        chosen = settings or Settings()
        shutdown = {"timeout_graceful_shutdown": max(1, round(chosen.shutdown_seconds))}
        return running(create_app(chosen, detector or fake_detector()), **shutdown, **config)

    return serve


@pytest.fixture
def served(serving: Callable[..., AbstractContextManager[Served]]) -> Iterator[Callable[..., Served]]:
    """`server = served(settings=..., detector=...)`: runs until the test ends."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(serving(**given))


@pytest.fixture
def row() -> dict[str, Any]:
    """A row for /v1/detect that the fake detector finds faithful."""
    return {"context": CONTEXT, "question": QUESTION, "response": FAITHFUL}


@pytest.fixture
def bad_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row for /v1/detect that the fake detector flags."""
    return row | {"response": UNFAITHFUL}


class Scripted(socketserver.ThreadingTCPServer):
    """An HTTP server that sends what it is told to, byte for byte, and keeps what it was sent.

    replies: for each request in turn, the last one for all others: bytes to send, seconds to wait, or None to wait
    until the client leaves. The connection is closed after each.
    """

    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.replies: list[list[bytes | float | None]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []
        self.left = threading.Semaphore(0)  # released for each client that left while it was waited for

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def says(self, reply: Any, status: int = 200, **headers: str) -> None:
        """Answer everything with this object, or these bytes."""
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        given = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        self.replies = [[_head(status, given) + data]]

    def streams(self, *chunks: Any, whole: bool = True) -> None:
        """Answer everything with these events; objects are written as JSON, None waits. `whole`: whether the body is
        complete as HTTP sees it."""
        parts: list[Any] = [_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})]
        for chunk in chunks:
            if isinstance(chunk, float) or chunk is None:
                parts.append(chunk)
                continue
            data = chunk if isinstance(chunk, bytes) else b"data: " + json.dumps(chunk).encode() + b"\n\n"
            parts.append(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.replies = [[*parts, *([b"0\r\n\r\n"] if whole else [])]]


class _Answer(socketserver.StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        server, line = self.server, self.rfile.readline().decode()
        if not line:
            return
        headers = {}
        while (row := self.rfile.readline().decode().strip()) != "":
            name, _, value = row.partition(":")
            headers[name.lower()] = value.strip()
        data = self.rfile.read(int(headers.get("content-length", 0)))
        server.paths.append(line.split()[1])
        server.headers.append(headers)
        server.bodies.append(json.loads(data) if data else None)
        try:
            for part in server.replies[min(len(server.paths), len(server.replies)) - 1]:
                if part is None:
                    if self.connection.recv(1) == b"":
                        server.left.release()
                elif isinstance(part, bytes):
                    self.connection.sendall(part)
                else:
                    time.sleep(part)
        except OSError:
            server.left.release()


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Said", *lines, "connection: close", "", ""]).encode()


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A misbehaving upstream."""
    with Scripted() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
