"""Every error has OpenAI's form, names its field, repeats little and leaks nothing."""

from __future__ import annotations

import json

import openai
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.server import errors
from groundwire.server.errors import ApiError, api_error, clean

FAULTS = {
    "fault": ZeroDivisionError("secret"),
    "capture": CaptureError("secret"),
    "input": InputError("bad x"),
    "long": PromptTooLong("9 tokens", expected="at most 8"),
    "busy": ApiError(429, "Full.", headers={"retry-after": "3"}),
}
FORM = {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def server(serving):
    with serving() as running:
        yield running


def error_of(reply):
    """The error of a reply, which has exactly OpenAI's form."""
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == FORM
    assert isinstance(body["error"]["message"], str)
    assert reply.headers["x-request-id"]
    return body["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/detect", 405, "method_not_allowed"),
        ("PUT", "/health", 405, "method_not_allowed"),
        ("BREW", "/health", 405, "method_not_allowed"),
    ],
)
def test_what_the_router_refuses(server, method, path, status, code):
    reply = server.client.request(method, path)
    assert reply.status_code == status
    assert error_of(reply)["code"] == code
    if status == 405:
        assert reply.headers["allow"]


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1", b"nul", b'{"a": "\xff\xfe"}', b"[" * 100_000, b"1" * 5000, b"\x00", b'{"prompt": "a"} x'],
    ids=["open", "list", "word", "utf8", "deep", "long", "zero", "tail"],
)
def test_a_body_that_is_no_json(server, body):
    reply = server.client.post("/v1/detect", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert error_of(reply)["code"] == "invalid_json"
    assert len(reply.content) < 500


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"])
def test_another_content_type_is_named(server, kind):
    reply = server.client.post("/v1/detect", content=b'{"a": 1}', headers={"content-type": kind})
    assert reply.status_code == 400
    assert "Content-Type: application/json" in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"inputs": 5}, "inputs", "invalid_value"),
        ({"hallucination": {"threshold": "0.5"}}, "hallucination.threshold", "invalid_value"),
        ({"hallucination": {"x": 1}}, "hallucination.x", "unknown_parameter"),
        ([], None, "invalid_value"),
        ("text", None, "invalid_value"),
        (None, None, "missing_required_parameter"),
    ],
)
def test_a_wrong_field_is_named(server, body, param, code):
    error = error_of(server.client.post("/v1/detect", json=body))
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")


@pytest.mark.parametrize(
    "body", [{"inputs": "x" * 1_000_000}, {"hallucination": {"y" * 1_000_000: 1}}, {"hallucination": {"\ud800": 1}}]
)
def test_little_is_repeated(server, body):
    content = json.dumps(body).encode()
    reply = server.client.post("/v1/detect", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 400
    assert len(error_of(reply)["message"]) < 300
    assert len(error_of(reply)["param"]) <= 200


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str
    content: str | list[str] | None = None


class Body(BaseModel):
    messages: list[Part]


@pytest.fixture(scope="module")
def faulty(serving):
    """The app with routes that read, and that break."""
    with serving() as running:
        app: FastAPI = running.app

        @app.post("/parts")
        async def parts(body: Body) -> None:
            return None

        @app.get("/break/{kind}")
        async def break_(kind: str) -> None:
            raise FAULTS[kind]

        yield running


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": 1}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}, {}]}, "messages[1].role", "missing_required_parameter"),
        ({"messages": [{"role": "user", "n": 1}]}, "messages[0].n", "unknown_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": ["a", 5]}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": {"x": 1}}]}, "messages[0].content", "invalid_value"),
    ],
)
def test_fields_are_named_as_openai_names_them(faulty, body, param, code):
    error = error_of(faulty.client.post("/parts", json=body))
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize(
    ("kind", "status", "type_", "code"),
    [
        ("fault", 500, "server_error", "internal_error"),
        ("capture", 500, "server_error", "internal_error"),
        ("input", 400, "invalid_request_error", "invalid_value"),
        ("long", 400, "invalid_request_error", "context_length_exceeded"),
        ("busy", 429, "rate_limit_error", None),
    ],
)
def test_what_breaks_is_answered_and_not_explained(faulty, kind, status, type_, code):
    reply = faulty.client.get(f"/break/{kind}")
    error = error_of(reply)
    assert (reply.status_code, error["type"], error["code"]) == (status, type_, code)
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert reply.headers.get("retry-after") == ("3" if kind == "busy" else None)


def test_the_openai_client_raises_its_own_errors(faulty):
    client = openai.OpenAI(base_url=f"{faulty.base_url}/v1", api_key="x", max_retries=0)
    with client, pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-4")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert raised.value.request_id


def test_an_error_stays_what_it_is():
    error = ApiError(400, "no", param="n", code="invalid_value")
    assert api_error(error) is error
    assert errors.server_error().to_dict()["error"]["type"] == "server_error"


def test_text_is_cut_and_encodable():
    assert clean("a" * 300) == "a" * 199 + "…"
    assert clean("a\ud800b") == "a?b"
