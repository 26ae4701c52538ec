"""Spans and events, as OpenTelemetry's own SDK records them; and nothing at all where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_tracer_provider

from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.server import app
from groundwire.server.tracing import NATIVE, Tracing, configure

PASSAGE = "The lighthouse opened in 1931 and is 642 metres high."
QUESTION = "When did the lighthouse open?"
ANSWER = "The lighthouse opened in Tokyo."
CHAT = "/v1/chat/completions"


@pytest.fixture
def traced(served, monkeypatch) -> Any:
    """A server whose spans and events stay in memory: `.spans()`, once there are so many, and `.events()`."""
    spans, events = InMemorySpanExporter(), InMemoryLogRecordExporter()
    tracers, loggers = TracerProvider(), LoggerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    loggers.add_log_record_processor(SimpleLogRecordProcessor(events))
    monkeypatch.setattr(app.tracing, "Tracing", lambda: Tracing(tracers, loggers))
    server = served(detector=fake_detector({QUESTION: ANSWER}))

    def finished(count: int) -> list[Any]:
        """The request's own span ends after the client has its answer."""
        deadline = time.monotonic() + 30
        while len(found := spans.get_finished_spans()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(found) == count, [span.name for span in found]
        return sorted(found, key=lambda span: (span.parent is not None, span.start_time))

    logged = lambda: [entry.log_record for entry in events.get_finished_logs()]  # noqa: E731
    return SimpleNamespace(client=server.client, spans=finished, events=logged)


def body(**fields: Any) -> dict[str, Any]:
    asked = {"model": "fake", "messages": [{"role": "user", "content": QUESTION}]}
    return {**asked, "hallucination": {"passages": [PASSAGE]}, **fields}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_its_stages(traced, stream):
    reply = traced.client.post(CHAT, json=body(stream=stream))
    whole, *stages = traced.spans(4)
    assert (whole.name, whole.kind, whole.parent) == (f"POST {CHAT}", SpanKind.SERVER, None)
    assert whole.attributes["http.response.status_code"] == 200
    assert whole.attributes["http.route"] == CHAT
    assert whole.attributes["groundwire.flagged"] == 1
    assert whole.status.status_code == StatusCode.UNSET
    named = {span.name: span for span in stages}
    assert set(named) == {"queue", "generate", "check"}
    assert {span.parent.span_id for span in stages} == {whole.context.span_id}
    assert whole.start_time <= named["queue"].start_time <= named["queue"].end_time <= named["generate"].start_time
    assert named["generate"].end_time == named["check"].end_time <= whole.end_time
    asked = named["generate"].attributes
    assert (asked["gen_ai.operation.name"], asked["gen_ai.request.model"]) == ("chat", "fake")
    assert asked["gen_ai.response.finish_reasons"] == ("stop",)
    assert asked["gen_ai.usage.output_tokens"] == 6
    assert asked["gen_ai.response.id"] in reply.text


def test_a_verdict_is_an_event_of_what_it_judges(traced):
    reply = traced.client.post(CHAT, json=body(n=2)).json()
    generate = next(span for span in traced.spans(5) if span.name == "generate")
    events = traced.events()
    assert [event.event_name for event in events] == ["gen_ai.evaluation.result"] * 2
    assert {event.span_id for event in events} == {generate.context.span_id}
    assert {event.trace_id for event in events} == {generate.context.trace_id}
    found = dict(events[0].attributes)
    verdict = reply["choices"][0]["hallucination"]
    assert found.pop("gen_ai.evaluation.explanation").startswith(f"{verdict['score']:.3f} is above the threshold 0.500")
    assert found == {
        "gen_ai.evaluation.name": "hallucination",
        "gen_ai.evaluation.score.value": verdict["score"],
        "gen_ai.evaluation.score.label": "flagged",
        "gen_ai.response.id": reply["id"],
        "groundwire.choice": 0,
    }
    assert events[1].attributes["groundwire.choice"] == 1


def test_answers_that_exist_are_traced_too(traced, row):
    rows = [row | {"id": "mine"}, {"response": "x"}, row | {"context": "word " * 3000}]
    traced.client.post("/v1/detect", json={"inputs": rows}, headers={"x-request-id": "r1"})
    whole, *checks = traced.spans(4)
    assert (whole.name, [span.name for span in checks]) == ("POST /v1/detect", ["check"] * 3)
    assert {span.parent.span_id for span in checks} == {whole.context.span_id}
    found = [event.attributes for event in traced.events()]
    assert [one["gen_ai.response.id"] for one in found] == ["r1-0", "r1-1", "r1-2"]
    assert [one["gen_ai.evaluation.score.label"] for one in found] == ["passed", "not_checked", "not_checked"]
    assert [one["gen_ai.evaluation.explanation"] for one in found][1:] == [
        "not checked: invalid_input",
        "not checked: prompt_too_long",
    ]
    assert "gen_ai.evaluation.score.value" not in found[1]
    assert [one.get("error.type") for one in found] == [None, "invalid_input", "prompt_too_long"]


def test_a_trace_that_began_elsewhere_goes_on(traced):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    traced.client.get("/health", headers={"traceparent": parent})
    traced.client.get("/health", headers={"traceparent": "nonsense"})
    second, first = traced.spans(2)
    assert f"{first.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{first.parent.span_id:016x}" == "b7ad6b7169203331"
    assert second.parent is None


def test_what_is_refused_is_no_error_of_the_server(traced):
    traced.client.get("/nothing")
    traced.client.get(CHAT)
    traced.client.get("/health")
    found = traced.spans(3)
    assert [(s.name, s.attributes["http.response.status_code"], s.status.status_code) for s in found] == [
        ("GET", 404, StatusCode.UNSET),
        (f"GET {CHAT}", 405, StatusCode.UNSET),
        ("GET /health", 200, StatusCode.UNSET),
    ]


def test_no_word_of_a_request_is_traced(traced, row):
    traced.client.post(CHAT, json=body(user="somebody"))
    traced.client.post("/v1/detect", json=row | {"id": "a-secret-id", "response": "It opened in Tokyo."})
    traced.client.get("/a-secret-path", params={"q": "a-secret-query"})
    said = "".join(span.to_json() for span in traced.spans(7))
    said += "".join(f"{event.event_name} {dict(event.attributes)}" for event in traced.events())
    assert "gen_ai.evaluation.result" in said
    for word in ("lighthouse", "Tokyo", "1931", "bridge", "somebody", "a-secret"):
        assert word not in said


def test_a_fault_is_an_error_without_its_message(traced, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a-secret")

    monkeypatch.setattr(app.health, "served_name", fail)
    assert traced.client.get("/version").status_code == 500
    (span,) = traced.spans(1)
    assert (span.status.status_code, span.attributes["error.type"]) == (StatusCode.ERROR, "500")
    assert "a-secret" not in span.to_json()


SERVE = """
from fastapi.testclient import TestClient
from groundwire.engines.fake import fake_detector
from groundwire.server.app import create_app
from groundwire.server.settings import Settings
from groundwire.server.tracing import configure
configure()
with TestClient(create_app(Settings(), fake_detector())) as client:
    for body in ({"model": "fake", "prompt": "a-secret b c"}, {"model": "fake", "prompt": {"a-secret": 1}}):
        found = client.post("/v1/completions", json=body)
        print(found.status_code)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


def test_without_an_sdk_everything_works():
    done = run("import sys; sys.modules['opentelemetry.sdk'] = None\n" + SERVE)
    assert done.stdout == "200\n400\n", done.stderr


def test_fastapi_is_told_what_it_understands():
    """It keeps an argument that it does not know, and says nothing."""
    assert NATIVE.keys() == {"telemetry"} & signature(FastAPI).parameters.keys()


def test_nobody_else_traces_what_was_asked():
    """FastAPI has telemetry of its own, with messages of exceptions in it."""
    done = run(SERVE, OTEL_TRACES_EXPORTER="console")
    assert done.stdout.count('"name": "POST /v1/completions"') == 2, done.stderr
    assert done.stdout.count('"trace_id"') == 2 + 3 + 1  # the requests, the stages of one, its verdict
    assert "a-secret" not in done.stdout + done.stderr


def test_the_environment_sets_it_up():
    code = """
from groundwire.server import tracing
tracing.configure()
tracing.configure()  # what stands stays
from groundwire.server.tracing import Tracing
found = Tracing()
with found.request({"method": "GET"}, {}) as notes:
    notes["status"] = 200
found.flush()
"""
    done = run(code, OTEL_TRACES_EXPORTER="console", OTEL_SERVICE_NAME="mine")
    span = json.loads(done.stdout)
    assert (span["name"], span["resource"]["attributes"]["service.name"]) == ("GET", "mine"), done.stderr


def test_an_exporter_that_is_not_installed_is_said():
    for environment in ({"OTEL_TRACES_EXPORTER": "pigeon"}, {"OTEL_TRACES_EXPORTER": "console,pigeon"}):
        with pytest.raises(InputError, match=r"groundwire\[server,otel\]"):
            configure(environment)
    configure({})
    configure({"OTEL_TRACES_EXPORTER": "none"})
    configure({"OTEL_TRACES_EXPORTER": "pigeon", "OTEL_SDK_DISABLED": "true"})
    assert not isinstance(get_tracer_provider(), TracerProvider)
