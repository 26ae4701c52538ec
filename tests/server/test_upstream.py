"""The client of the upstream, against one that misbehaves on the wire."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from groundwire.errors import InputError
from groundwire.server import upstream as module
from groundwire.server.errors import ApiError
from groundwire.server.relay import Answerer
from groundwire.server.settings import Settings
from groundwire.server.upstream import TRUNCATED, Upstream, upstream_url

KEY = "sk-operator"
BODY = {"model": "gpt", "user": "é", "seed": 2**60}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "A"}}]}
DONE = b"data: [DONE]\n\n"


def settings(url: str, **given: Any) -> Settings:
    return Settings(upstream_url=url, upstream_key=KEY, upstream_timeout=given.pop("upstream_timeout", 5), **given)


def ask(url: str, **given: Any) -> Any:
    async def run() -> Any:
        upstream = Upstream(settings(url, **given))
        try:
            return await upstream.ask("chat/completions", BODY, "r1")
        finally:
            assert upstream.under_way == 0
            await upstream.close()

    return asyncio.run(run())


def stream(url: str, **given: Any) -> tuple[list[Any], ApiError | None]:
    """The chunks, and what ended them."""
    found: list[Any] = []

    async def run() -> ApiError | None:
        upstream = Upstream(settings(url, **given))
        try:
            async with upstream.stream("chat/completions", BODY, "r1") as chunks:
                async for chunk in chunks:
                    found.append(chunk)
        except ApiError as error:
            return error
        finally:
            assert upstream.under_way == 0
            await upstream.close()
        return None

    return found, asyncio.run(run())


def test_it_gets_the_operator_s_key_and_the_request_s_id(scripted):
    scripted.says({"a": 1})
    assert ask(scripted.url) == {"a": 1}
    assert scripted.paths == ["/v1/chat/completions"]
    (headers,) = scripted.headers
    assert (headers["authorization"], headers["x-request-id"]) == (f"Bearer {KEY}", "r1")
    assert headers["content-type"] == "application/json"
    assert scripted.bodies == [BODY]


def test_it_is_what_a_relay_asks():
    upstream = Upstream(settings("https://api.example.com/v1"))
    assert isinstance(upstream, Answerer)
    asyncio.run(upstream.close())


def test_without_a_key_there_is_no_authorization(scripted):
    scripted.says({"data": []})

    async def run() -> None:
        upstream = Upstream(Settings(upstream_url=scripted.url))
        assert await upstream.get("models") == {"data": []}
        await upstream.close()

    asyncio.run(run())
    assert scripted.paths == ["/v1/models"]
    assert "authorization" not in scripted.headers[0]


@pytest.mark.parametrize(
    ("status", "said", "wanted"),
    [
        (
            400,
            {"error": {"message": "No tools.", "type": "bad", "param": "tools", "code": "x"}},
            (400, "No tools.", "bad", "tools", "x"),
        ),
        (429, {"error": {"message": "Slow down.", "code": 429}}, (429, "Slow down.", "rate_limit_error", None, "429")),
        (404, {"message": "No model.", "object": "error"}, (404, "No model.", "invalid_request_error", None, None)),
        (500, {"error": "It broke."}, (500, "It broke.", "server_error", None, None)),
        (
            503,
            b"<html>secret</html>",
            (503, "The upstream answered with status 503.", "server_error", None, "upstream_error"),
        ),
        (403, {"error": {"message": f"{KEY} may not."}}, (403, "*** may not.", "invalid_request_error", None, None)),
        (
            422,
            ["odd"],
            (422, "The upstream answered with status 422.", "invalid_request_error", None, "upstream_error"),
        ),
    ],
)
def test_its_errors_are_passed_on(scripted, status, said, wanted):
    scripted.says(said, status, retry_after="7")
    with pytest.raises(ApiError) as refused:
        ask(scripted.url)
    error = refused.value
    assert (error.status_code, error.message, error.kind, error.param, error.code) == wanted
    assert error.headers == {"retry-after": "7"}
    assert stream(scripted.url)[1].to_dict() == error.to_dict()


def test_its_opinion_of_our_key_is_not_the_client_s_to_know(scripted):
    scripted.says({"error": {"message": "Incorrect API key provided: sk-op*****", "code": "invalid_api_key"}}, 401)
    with pytest.raises(ApiError, match="this server's credentials") as refused:
        ask(scripted.url)
    assert (refused.value.status_code, refused.value.code) == (502, "upstream_unauthorized")


def test_redirects_are_not_followed(scripted):
    scripted.says({}, 307, location=f"{scripted.url}/elsewhere")
    with pytest.raises(ApiError, match="status 307"):
        ask(scripted.url)
    assert len(scripted.paths) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"a"', b"[" * 100_000, b"\xff"])
def test_what_is_no_object_is_said(scripted, body):
    scripted.says(body)
    with pytest.raises(ApiError) as refused:
        ask(scripted.url)
    assert (refused.value.status_code, refused.value.code) == (502, "upstream_malformed")


def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(ApiError) as refused:
            ask(url)
        assert (refused.value.status_code, refused.value.code) == (502, "upstream_unreachable")
        assert stream(url)[1].code == "upstream_unreachable"


def test_a_late_answer(scripted):
    scripted.replies = [[None]]
    start = time.monotonic()
    with pytest.raises(ApiError) as late:
        ask(scripted.url, upstream_timeout=0.2)
    assert (late.value.status_code, late.value.code) == (504, "upstream_timeout")
    assert time.monotonic() - start < 2
    assert scripted.left.acquire(timeout=30)


@pytest.mark.parametrize("sent", [[b""], [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"], [b"rubbish\r\n\r\n"]])
def test_a_reply_that_breaks_off(scripted, sent):
    scripted.replies = [sent]
    with pytest.raises(ApiError) as broken:
        ask(scripted.url)
    assert (broken.value.status_code, broken.value.code) == (502, "upstream_disconnected")


def test_a_stream(scripted):
    scripted.streams(b": hello\n\n", CHUNK, CHUNK, DONE, CHUNK)
    assert stream(scripted.url) == ([CHUNK, CHUNK], None)


@pytest.mark.parametrize(
    ("events", "whole", "code"),
    [
        ([CHUNK], True, TRUNCATED),
        ([], True, TRUNCATED),
        ([CHUNK, b"data: {"], True, TRUNCATED),
        ([CHUNK], False, "upstream_disconnected"),
        ([CHUNK, None], True, "upstream_timeout"),
        ([CHUNK, b"data: {\n\n"], True, "upstream_malformed"),
        ([CHUNK, b"data: 3\n\n"], True, "upstream_malformed"),
        ([CHUNK, {"error": {"message": "Overloaded.", "code": "over"}}], True, "over"),
    ],
)
def test_how_a_stream_can_end(scripted, events, whole, code):
    scripted.streams(*events, whole=whole)
    chunks, error = stream(scripted.url, upstream_timeout=0.3)
    assert chunks == [CHUNK] * (CHUNK in events)
    assert error is not None
    assert error.code == code


def test_what_does_not_stream_is_said(scripted):
    scripted.says({"choices": []})
    assert stream(scripted.url)[1].code == "upstream_malformed"


def test_sizes_are_bounded(scripted, monkeypatch):
    monkeypatch.setattr(module, "REPLY_BYTES", 1000)
    monkeypatch.setattr(module, "EVENT_BYTES", 100)
    scripted.says({"a": "x" * 1000})
    with pytest.raises(ApiError) as large:
        ask(scripted.url)
    assert large.value.code == "upstream_too_large"
    scripted.streams(b"data: " + b"x" * 200)
    assert stream(scripted.url)[1].code == "upstream_too_large"
    scripted.streams(*[CHUNK] * 30, DONE)
    chunks, error = stream(scripted.url)
    assert len(chunks) < 30
    assert error.code == "upstream_too_large"


def test_so_many_requests_may_be_under_way(scripted):
    scripted.replies = [[None]]

    async def run() -> None:
        upstream = Upstream(settings(scripted.url, max_batch=1, max_queue=1))

        async def asked() -> None:
            with upstream.admitted():
                await upstream.ask("a", {}, "r")

        tasks = [asyncio.create_task(asked()) for _ in range(2)]
        while len(scripted.paths) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(ApiError) as full, upstream.admitted():
            pass
        assert (full.value.status_code, full.value.code) == (429, "queue_full")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert upstream.under_way == 0
        await upstream.close()

    asyncio.run(run())
    assert all(scripted.left.acquire(timeout=30) for _ in range(2))  # cancelling closed the connections


@pytest.mark.parametrize(
    "url", ["", "localhost:9", "ftp://a/v1", "https://", "https://a/v1?x=1", "http://a:b/v1", "/v1"]
)
def test_a_url_that_cannot_be_used_is_said(url):
    with pytest.raises(InputError, match="no base URL"):
        upstream_url(Settings(upstream_url=url))
