"""What no client should send, over real sockets: it is answered, little of it is repeated, and nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server.settings import Settings

CHAT, TEXT, DETECT = "/v1/chat/completions", "/v1/completions", "/v1/detect"
JSON = {"content-type": "application/json"}
ASKED = {CHAT: {"messages": [{"role": "user", "content": "a b c"}]}, TEXT: {"prompt": "a b c"}}
SECRET = "a-secret-of-mine"
UNREADABLE = {"invalid_json", "invalid_value", "missing_required_parameter"}
MOST = 1500  # bytes of any error


@pytest.fixture(scope="module")
def server(serving) -> Iterator[Any]:
    with serving(settings=Settings(max_choices=4)) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_grows(request) -> Iterator[None]:
    """Threads, tasks, connections and slots are after a test what they were before it."""
    if "server" not in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("server")
    threads = settled(server)
    yield
    assert settled(server) == threads


def settled(server: Any) -> list[str]:
    """The threads, once nothing else is left. asyncio's pool starts its own one by one, and never more than a few."""
    assert server.client.get("/health", headers={"connection": "close"}).status_code == 200
    deadline = time.monotonic() + 30
    while any(left := counted(server)):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    return sorted(t.name for t in threading.enumerate() if not t.name.startswith(("asyncio_", "AnyIO")))


def counted(server: Any) -> list[int]:
    """Tasks, connections, and the engine's slots: all that a request takes."""
    state, loop = server.server.server_state, server.app.state.loop
    slots = (loop._active, loop._waiting, loop._scoring, loop._dropped)
    return [len(state.tasks), len(state.connections), *map(len, slots)]


def send(server: Any, path: str, content: bytes, headers: Any = JSON) -> httpx.Response:
    return server.client.post(path, content=content, headers=headers)


def refused(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a reply: in OpenAI's form, short, without a trace of how it came about."""
    assert reply.status_code == status, reply.text[:MOST]
    assert len(reply.content) < MOST
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for leak in ("Traceback", ".py", "Error:", "site-packages", "pydantic"):
        assert leak not in reply.text
    return error


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"model": "fake", "messages": [',
        b"null",
        b'\xef\xbb\xbf{"model": "fake"}',
        '{"model": "fäke"}'.encode("latin-1"),
        json.dumps({"model": "fake"}).encode("utf-16"),
        b'{"model": "fake", "n": ' + b"9" * 5000 + b"}",
        b'{"model": "fake"}{"model": "fake"}',
        b"\x1f\x8b\x08\x00 what gzip begins with",
        b"{'model': 'fake'}",
        b"[" * 50_000 + b"]" * 50_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=[
        "none",
        "open",
        "cut",
        "null",
        "bom",
        "latin1",
        "utf16",
        "digits",
        "two",
        "gzip",
        "quotes",
        "lists",
        "objects",
    ],
)
def test_a_body_that_is_no_json(server, path, content):
    assert refused(send(server, path, content))["code"] in UNREADABLE


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ('"n": 1000', "n"),
        ('"n": 1e400', "n"),
        ('"n": NaN', "n"),
        ('"max_tokens": -1', "max_tokens"),
        ('"max_tokens": -Infinity', "max_tokens"),
        ('"temperature": NaN', "temperature"),
        ('"temperature": Infinity', "temperature"),
        ('"top_p": NaN', "top_p"),
        ('"seed": 1e300', "seed"),
        ('"logit_bias": {"5": NaN}', "logit_bias"),
        ('"hallucination": {"threshold": NaN}', "hallucination.threshold"),
        ('"hallucination": {"top_terms": 1e9}', "hallucination.top_terms"),
        (f'"hallucination": {{"target": "fpr<={"1" * 12000}x"}}', "hallucination.target"),
        ('"hallucination": {"passages": [[]]}', "hallucination.passages[0]"),
        ('"hallucination": {"passages": ["\\ud800"]}', "hallucination.passages[0]"),
        ('"hallucination": {"target": "\\udfff"}', "hallucination.target"),
        ('"user": "\\ud800"', "user"),
        ('"stop": ["a", "\\ud800"]', "stop[1]"),
        ('"stop": [' + '"a",' * 9999 + '"a"]', "stop"),
        ('"stream": "true"', "stream"),
        ('"\\u0000": 1', "\x00"),
    ],
)
def test_values_that_cannot_be_used_are_named(server, path, fields, param):
    body = json.dumps({"model": "fake", **ASKED[path]})[:-1] + f", {fields}}}"
    assert refused(send(server, path, body.encode()))["param"] == param


def test_prompts_that_cannot_be_used_are_named(server):
    def ask(**fields: Any) -> dict[str, Any]:
        return refused(send(server, TEXT, json.dumps({"model": "fake", **fields}).encode()))

    assert ask(prompt="word " * 3000)["code"] == "context_length_exceeded"
    assert ask(prompt=["a"] * 1000)["param"] == "prompt"
    assert ask(prompt=["a", {"b": 1}])["param"] == "prompt[1]"
    assert ask(prompt="a", max_tokens=10**12)["code"] == "context_length_exceeded"
    assert ask()["code"] == "missing_required_parameter"


@pytest.mark.parametrize("key", ["model", "messages", "role", "content", "user", "metadata", "stop", "policy", "name"])
def test_little_of_a_large_body_is_repeated(server, key):
    large = SECRET + "x" * 1_500_000
    message = {"role": "user", "content": "a"}
    body: dict[str, Any] = {"model": "fake", "messages": [message]}
    if key in ("role", "content", "name"):
        message[key] = large if key == "role" else {large: large}  # type: ignore[assignment]
    elif key == "policy":
        body["hallucination"] = {"policy": large}
    else:
        body[key] = large if key == "model" else {large: [large]}
    reply = send(server, CHAT, json.dumps(body).encode())
    refused(reply, 404 if key == "model" else 400)
    assert reply.text.count("x" * 250) == 0


@pytest.mark.parametrize("depth", [50, 500, 900, 980, 1200])
def test_deep_values_are_taken_or_refused_and_never_break(server, depth):
    deep = b"[" * depth + b"]" * depth
    bodies = [
        (CHAT, b'{"model": "fake", "messages": [{"role": "user", "content": %s}]}'),
        (CHAT, b'{"model": "fake", "messages": [{"role": "assistant", "content": "a", "annotations": %s}]}'),
        (CHAT, b'{"model": "fake", "messages": [{"role": "user", "content": "a"}], "tools": %s}'),
        (TEXT, b'{"model": "fake", "prompt": %s}'),
        (DETECT, b'{"prompt": "a", "response": "a", "context": %s}'),
        (DETECT, b'{"prompt": "a", "response": "a", "other": %s}'),
        (DETECT, b'{"inputs": %s}'),
        (DETECT, b'{"inputs": [%s]}'),
    ]
    for path, body in bodies:
        reply = send(server, path, body % deep)
        if reply.status_code != 200:
            refused(reply)
        assert len(reply.content) < 2 * MOST


def test_of_a_key_given_twice_the_last_counts(server):
    body = b'{"model": "gpt-9", "prompt": "a b", "n": 0, "model": "fake", "n": 1, "prompt": "c d"}'
    assert send(server, TEXT, body).json()["choices"][0]["text"] == "c d"


@pytest.mark.parametrize("path", [CHAT, TEXT, DETECT, "/v1/models", "/v1/models/fake", "/health", "/metrics"])
@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "TRACE", "OPTIONS", "HEAD", "CONNECTED", "get", "PRI"])
def test_another_method_is_refused_and_echoes_nothing(server, path, method):
    reply = exchange(server, f"{method} {path} HTTP/1.1\r\nhost: x\r\nx-secret: {SECRET}\r\nconnection: close\r\n\r\n")
    assert reply.split(b"\r\n")[0] in (b"HTTP/1.1 405 Method Not Allowed", b"HTTP/1.1 405 ")
    assert SECRET.encode() not in reply
    assert b"allow: " in reply.lower()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/", "/v1//chat/completions", "/V1/models", "/v1/chat/completions%00",
        "/static/../../pyproject.toml", "/static/%2e%2e%2fapp.py", "/static/..%5capp.py", "/%2e%2e/etc/passwd",
        "//etc/passwd", "/v1/models/%ff",
        "/v1/models/../../health", "/v1/models/" + "x" * 20_000, "/openapi.json/..", "/health;a=b", "/%c0%ae%c0%ae/",
    ],
)  # fmt: skip
def test_no_path_leads_elsewhere(server, path):
    reply = exchange(server, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert json.loads(body)["error"]["code"] in ("not_found", "model_not_found")
    assert len(body) < MOST


def exchange(server: Any, data: str | bytes) -> bytes:
    """All that comes back on a connection of its own, until the server closes it or says nothing for two seconds."""
    with server.connect() as connection:
        connection.settimeout(2)
        found = b""
        try:
            connection.sendall(data.encode() if isinstance(data, str) else data)
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionError):
            pass
        return found


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello in TLS",
        b"GET\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 200_000,
        b"POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/detect HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 2\r\n\r\n{}",
        b"POST /v1/detect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["tls", "line", "host", "header", "long", "url", "negative", "two", "chunks"],
)
def test_what_is_no_http_is_answered_and_the_connection_closed(server, data):
    reply = exchange(server, data)
    assert reply.split(b" ")[1:2] in ([b"400"], [b"505"], [])
    assert len(reply) < MOST
    assert b"Traceback" not in reply


def test_a_length_beside_chunks_opens_no_second_request(server):
    """Two readings of where a body ends are how a request is hidden in another's body."""
    hidden = b"0\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    head = f"POST /nothing HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: {len(hidden)}\r\n\r\n"
    reply = exchange(server, head.encode() + hidden)
    assert reply.startswith(b"HTTP/1.1 400")
    assert reply.count(b"HTTP/1.1") == 1
    assert b"not both" in reply


def test_a_connection_goes_on_after_an_error_where_it_stood(server):
    bad = b'{"model": "fake", "prompt": '
    good = json.dumps({"model": "fake", "prompt": "one two"}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
    with server.connect() as connection:
        for body, last in ((bad, ""), (good, ""), (bad, ""), (good, "connection: close\r\n")):
            connection.sendall((head % (len(body), last)).encode() + body)  # four at once
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert [part[:3] for part in reply.split(b"HTTP/1.1 ")[1:]] == [b"400", b"200", b"400", b"200"]


def test_nobody_gets_another_s_text(server):
    """Good and bad requests, whole and streamed, at the same time: each reply holds its own words only."""

    async def run() -> list[tuple[int, httpx.Response]]:
        limits = httpx.Limits(max_connections=24)
        async with httpx.AsyncClient(base_url=server.base_url, timeout=60, limits=limits) as client:

            async def one(i: int) -> tuple[int, httpx.Response]:
                body: dict[str, Any] = {"model": "fake", "prompt": f"words of client{i:03} only", "stream": i % 2 == 0}
                body |= [{}, {"n": 1000}, {f"x{i}": f"client{i:03}"}, {"model": f"client{i:03}"}][i % 4]
                return i, await client.post(TEXT, json=body)

            return await asyncio.gather(*map(one, range(120)))

    for i, reply in asyncio.run(run()):
        assert reply.status_code in (200, 400, 404, 429)
        others = {f"client{j:03}" for j in range(120)} - {f"client{i:03}"}
        assert not any(name in reply.text for name in others)
    assert {reply.status_code for _, reply in asyncio.run(run())} >= {200, 400, 404}


@pytest.mark.parametrize("how", ["reset", "half"])
def test_clients_that_break_off_leave_nothing(server, how):
    body = json.dumps({"model": "fake", "prompt": "a b c d e f g", "stream": True, "n": 3}).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    for cut in range(0, len(body), 4):
        with server.connect() as connection:
            connection.sendall(head.encode() + (body if cut % 8 else body[:cut]))
            if how == "half":
                connection.shutdown(socket.SHUT_WR)
                continue
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_client_that_never_reads_holds_its_place_for_a_while_only(served):
    detector = fake_detector({"all": "word " * 800})
    server = served(settings=Settings(request_timeout=3), detector=detector)
    fields = {"model": "fake", "prompt": "all", "stream": True, "max_tokens": 900, "logprobs": 5, "n": 4}
    body = json.dumps(fields).encode()
    head = f"POST {TEXT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + body)
        other = server.client.post(TEXT, json={"model": "fake", "prompt": "hello you"})
        assert other.json()["choices"][0]["text"] == "hello you"
        deadline = time.monotonic() + 30
        while any(left := counted(server)[2:]):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)


def test_a_server_that_stops_under_load_answers_everyone_or_no_one(serving):
    """Every client has its answer, is told, or is not let in; and nothing stays behind."""
    threads = {t.name for t in threading.enumerate()}
    seen: list[str] = []
    with serving(settings=Settings(shutdown_seconds=5)) as running:

        def client(i: int) -> None:
            with httpx.Client(base_url=running.base_url, timeout=30) as own:
                for _ in range(10_000):
                    try:
                        reply = own.post(TEXT, json={"model": "fake", "prompt": "a b c", "stream": bool(i % 2)})
                    except httpx.ConnectError:
                        return
                    except httpx.TransportError as error:  # an idle connection that was just being closed
                        seen.append(type(error).__name__)
                        return
                    if reply.status_code == 200 and i % 2:
                        seen.append(
                            "whole" if "data: [DONE]" in reply.text or '"shutting_down"' in reply.text else "cut"
                        )
                    else:
                        seen.append(str(reply.status_code))

        clients = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for one in clients:
            one.start()
        deadline = time.monotonic() + 30
        while not {"200", "whole"} <= set(seen):
            assert time.monotonic() < deadline, seen
            time.sleep(0.05)
        running.server.should_exit = True
        for one in clients:
            one.join(30)
            assert not one.is_alive()
    assert set(seen) <= {"200", "429", "503", "whole", "RemoteProtocolError", "ReadError", "WriteError"}
    assert {t.name for t in threading.enumerate()} <= threads
