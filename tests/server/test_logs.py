"""One line of JSON per request, with its id, and never a word of prompt or answer."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time

import pytest
import uvicorn
from fastapi import Request
from fastapi.responses import StreamingResponse

from groundwire.server import logs
from groundwire.server.auth import hash_key
from groundwire.server.logs import JsonFormatter, configure, note
from groundwire.server.metrics import Metrics
from groundwire.server.settings import Settings
from groundwire.server.tracing import Tracing

SECRET = "Xanadu"


@pytest.fixture
def lines():
    """What the server's loggers write, parsed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("groundwire")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(level)


def requests(lines, count=1):
    """The lines of `count` requests; each is written when its reply has gone."""
    deadline = time.monotonic() + 30
    while len(found := [line for line in lines() if line["event"] == "request"]) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
    assert len(found) == count
    return found


@pytest.fixture
def server(served):
    running = served()

    @running.app.get("/fault/{word}")
    async def fault(word: str) -> None:
        raise ValueError(f"about {word}")

    @running.app.get("/stream/{kind}")
    async def stream(kind: str, request: Request) -> StreamingResponse:
        async def parts():
            note(request, completion_tokens=1)
            yield b"data: 1\n\n"
            raise ValueError(f"about {SECRET}")

        return StreamingResponse(parts(), media_type="text/event-stream" if kind == "events" else "text/plain")

    return running


def test_a_request_is_one_line(server, lines, bad_row):
    reply = server.client.post("/v1/detect?x=" + SECRET, json=bad_row, headers={"x-request-id": "mine-1"})
    (line,) = requests(lines)
    assert reply.headers["x-request-id"] == line["request_id"] == "mine-1"
    assert (line["method"], line["path"], line["status"], line["level"]) == ("POST", "/v1/detect", 200, "info")
    assert (line["rows"], line["flagged"]) == (1, 1)
    assert line["ms"] > 0
    assert line["time"].endswith("+00:00")


def test_no_word_of_a_request_is_logged(server, lines, row):
    text = {"context": [f"{SECRET} is far."], "question": f"Where is {SECRET}?", "response": f"{SECRET} is near."}
    bad = [{"inputs": [text, {"response": SECRET}, SECRET]}, text | {"hallucination": {SECRET: 1}}, {"inputs": SECRET}]
    for body in bad:
        server.client.post("/v1/detect", json=body)
    server.client.get(f"/stream/events?{SECRET}")
    assert requests(lines, 4)
    assert SECRET not in json.dumps(lines())


@pytest.mark.parametrize("given", ["a b", "x" * 129, "", "ä".encode(), "a/b", '"'])
def test_an_id_that_is_not_sane_is_replaced(server, given):
    found = server.client.get("/health", headers={"x-request-id": given}).headers["x-request-id"]
    assert found.startswith("req_")
    assert len(found) == 36


def test_ids_differ(server):
    assert len({server.client.get("/health").headers["x-request-id"] for _ in range(5)}) == 5


def test_a_fault_is_logged_where_it_arose_but_not_what_it_says(server, lines):
    assert server.client.get("/fault/word").status_code == 500
    (request,) = requests(lines)
    fault, _ = lines()
    assert (fault["event"], fault["level"], fault["error"]) == ("exception", "error", "ValueError")
    assert any("test_logs.py" in place for place in fault["at"])
    assert "about" not in json.dumps(fault)
    assert fault["request_id"] == request["request_id"]
    assert request["status"] == 500


def test_events_that_break_end_with_an_error(server, lines):
    reply = server.client.get("/stream/events")
    first, last = [part.removeprefix("data: ") for part in reply.text.strip().split("\n\n")]
    assert first == "1"
    assert json.loads(last)["error"]["code"] == "internal_error"
    assert SECRET not in reply.text
    (line,) = requests(lines)
    assert (line["status"], line["completion_tokens"]) == (200, 1)


def test_any_other_reply_that_breaks_is_cut_off(server, lines):
    with pytest.raises(Exception, match="incomplete chunked read"):
        server.client.get("/stream/text")
    assert requests(lines)[0]["unfinished"] is True


def test_an_error_is_not_waited_for_where_the_client_takes_nothing():
    async def run() -> None:
        async def app(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS)]})
            raise ValueError

        async def send(message):
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await asyncio.wait_for(logs.RequestLog(app, Metrics(), Tracing())(scope, None, send), 10)

    EVENTS = b"text/event-stream"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "FAREWELL", 0.05)
        asyncio.run(run())


def test_the_key_s_name_is_logged_and_not_the_key(served, lines, tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"{hash_key(SECRET)} # search team\n")
    server = served(settings=Settings(api_keys_file=file))
    server.client.get("/v1/models", headers={"authorization": f"Bearer {SECRET}"})
    server.client.get("/v1/models", headers={"authorization": f"Bearer not-{SECRET}"})
    assert [line.get("key") for line in requests(lines, 2)] == ["search team", None]
    assert SECRET not in json.dumps(lines())


def test_a_long_path_is_cut_and_cannot_break_the_line(server, lines):
    server.client.get("/" + "a%0a" * 500)
    (line,) = requests(lines)
    assert len(line["path"]) == 200


def test_exceptions_of_others_lose_their_message_too(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root, level, disabled = logging.getLogger(), logging.getLogger().level, logging.getLogger("uvicorn.access").disabled
    handlers = root.handlers[:]
    chatty = {name: logging.getLogger(name).level for name in ("httpx", "httpcore")}
    uvicorn.Config("", log_config=uvicorn.config.LOGGING_CONFIG)  # what a server started elsewhere leaves behind
    try:
        configure("warning")
        try:
            raise KeyError(SECRET)
        except KeyError:
            logging.getLogger("uvicorn.error").exception("it broke")
        logging.getLogger("uvicorn.error").info("not this")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.getLogger("uvicorn.access").disabled = disabled
        for name, before in chatty.items():
            logging.getLogger(name).setLevel(before)
    (line,) = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (line["event"], line["error"], line["level"]) == ("it broke", "KeyError", "error")
    assert SECRET not in stream.getvalue()
