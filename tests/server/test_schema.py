"""The served OpenAPI is true: schemathesis sends what it describes, and what it does not, to a running server.

All its checks run, on examples, covering values and generated ones. Replies are held to their description strictly: a
field that it does not name is a fault too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server import judgement, replies, schema
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings

KEY = {"authorization": "Bearer key-of-the-test"}
SENT = {
    name
    for module in (judgement, replies)
    for name, thing in vars(module).items()
    if isinstance(thing, type) and issubclass(thing, judgement.Sent)
}
ENDLESS = 10**40  # how many tokens a prompt has no description can say, so here all of them fit


@pytest.fixture(scope="module")
def server(serving):
    detector = fake_detector()
    detector.engine.context = ENDLESS
    with serving(Settings(api_keys=(hash_key("key-of-the-test"),), max_queue=256), detector) as running:
        yield running


@pytest.fixture(scope="module")
def described(server) -> dict[str, Any]:
    return server.client.get("/openapi.json", headers=KEY).raise_for_status().json()


def test_the_description_is_true(server, described, tmp_path: Path):
    for name in SENT & set(described["components"]["schemas"]):
        described["components"]["schemas"][name]["additionalProperties"] = False
    (tmp_path / "openapi.json").write_text(json.dumps(described))
    command = [Path(sys.executable).with_name("st"), "run", "openapi.json", "--url", server.base_url]
    command += ["--header", f"Authorization: {KEY['authorization']}", "--checks", "all", "--continue-on-failure"]
    command += ["--max-examples", "25", "--seed", "1", "--suppress-health-check", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


def test_what_cannot_be_generated_here_is_described_too(described):
    paths, parts = described["paths"], described["components"]["schemas"]
    assert described["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    keyed = {path for path, operations in paths.items() for one in operations.values() if one.get("security")}
    assert keyed == set(paths) - {"/health", "/ready", "/version"}
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/detect"):
        answers = paths[path]["post"]["responses"]
        assert {"200", "401", "4XX", "5XX", *schema.ERRORS} <= set(answers)
        assert ("404" in answers) is (path != "/v1/detect")
        assert answers["429"]["headers"]["Retry-After"]["schema"] == {"type": "integer", "minimum": 1}
        assert answers["413"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")
    assert parts["ChatRequest"]["properties"]["model"]["enum"] == ["fake"]
    assert parts["ChatRequest"]["properties"]["n"]["anyOf"][0]["maximum"] == 8
    assert parts["ChatRequest"]["properties"]["seed"]["anyOf"][0]["exclusiveMaximum"] == 2**63
    together = parts["CompletionRequest"]["allOf"][-1]["anyOf"]
    pairs = [(one["properties"]["prompt"]["maxItems"], one["properties"]["n"]["maximum"]) for one in together]
    assert pairs == [(1, 8), (2, 4), (4, 2), (8, 1)]
    assert parts["DetectRows"]["properties"]["inputs"]["maxItems"] == 256


def test_without_keys_no_operation_needs_one(served):
    paths = served().client.get("/openapi.json").json()["paths"]
    for operations in paths.values():
        for operation in operations.values():
            assert "security" not in operation
            assert "401" not in operation["responses"]


def test_a_gateway_is_described(served):
    server = served(settings=Settings(upstream_url="http://127.0.0.1:9/v1"))
    parts = server.client.get("/openapi.json").json()["components"]["schemas"]
    assert "enum" not in parts["ForwardedChat"]["properties"]["model"]
    assert parts["ForwardedChat"]["properties"]["n"]["anyOf"][0]["maximum"] == 8


PASSAGE = "The bridge opened in 1931 and is 642 metres long."
OPTIONS = {"passages": [{"id": "b", "text": PASSAGE}], "tokens": True, "running": True, "mirror": True}


@pytest.fixture(scope="module")
def answering(serving):
    answers = {"Answer again": "The bridge opened in 1931.", "open?": "The bridge opened in Tokyo in 1931."}
    with serving(detector=fake_detector(answers)) as running:
        yield running


@pytest.mark.parametrize("policy", ["annotate", "redact", "block", "regenerate", "halt", "hold"])
@pytest.mark.parametrize(
    ("path", "asked", "whole", "chunk"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "When did it open?"}], "logprobs": True, "top_logprobs": 2},
            replies.ChatCompletion,
            replies.ChatCompletionChunk,
        ),
        (
            "/v1/completions",
            {"prompt": "When did it open?", "logprobs": 2},
            replies.Completion,
            replies.CompletionChunk,
        ),
    ],
)
def test_replies_have_the_described_fields_and_no_others(answering, path, asked, whole, chunk, policy):
    body = {"model": "fake", **asked, "hallucination": OPTIONS | {"policy": policy}}
    reply = answering.client.post(path, json=body)
    found = whole.model_validate_json(reply.content, extra="forbid", strict=True)
    verdict = found.choices[0].hallucination
    assert verdict.action == policy
    assert (policy == "regenerate") is (verdict.attempts is not None)
    assert (policy == "redact") is any(span.redacted is not None for span in verdict.spans)
    streamed = answering.client.post(path, json=body | {"stream": True, "stream_options": {"include_usage": True}})
    *events, end = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert end == "[DONE]"
    for event in events:
        chunk.model_validate_json(event, extra="forbid", strict=True)


def test_rows_have_the_described_fields_and_no_others(answering, bad_row):
    reply: httpx.Response = answering.client.post("/v1/detect", json=bad_row | {"hallucination": {"tokens": True}})
    verdict = judgement.Judgement.model_validate(reply.json()["hallucination"], extra="forbid", strict=True)
    assert verdict.spans[0].evidence.passage_id == "b"


def test_a_whole_number_may_have_a_point(answering):
    """JSON has one kind of number, and a description cannot tell 2.0 from 2."""
    body = {"model": "fake", "prompt": "a b c", "max_tokens": 2.0, "n": 1.0, "seed": 3.0}
    reply = answering.client.post("/v1/completions", json=body)
    assert reply.status_code == 200
    assert reply.json()["usage"]["completion_tokens"] == 2
    assert answering.client.post("/v1/completions", json=body | {"max_tokens": 2.5}).status_code == 400
