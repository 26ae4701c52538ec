"""OpenTelemetry: a span per request with what it was made of, and an event for every verdict.

    POST /v1/chat/completions (server) > queue, generate (with `gen_ai.evaluation.result` per choice), check per choice

By the semantic conventions for generative AI. Without an OpenTelemetry SDK that is set up, nothing is recorded. No text
of a request or an answer is in any of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

from opentelemetry import _logs, propagate, trace

from groundwire import __version__
from groundwire.errors import InputError
from groundwire.server.policies import FAILURES
from groundwire.types import Verdict

NAME = "groundwire"
EVENT = "gen_ai.evaluation.result"
EVALUATION = "hallucination"  # the score is the probability of one
SECOND = 1_000_000_000  # nanoseconds
# FastAPI's own telemetry would double these spans, and log the messages of exceptions. Older releases have none.
_OFF = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
NATIVE: Mapping[str, Any] = {"telemetry": _OFF} if find_spec("fastapi.telemetry") else {}
EXPORTERS = {"otlp": "otlp_proto_http"}  # what the variables call it, and what its entry point is called
TERMS = 3  # named in an explanation


@dataclass(frozen=True)
class Generated:
    """A request that was answered: by which model, how long it waited and took (seconds, ending now), tokens, why
    each choice ended, and the verdicts by choice."""

    id: str
    operation: str
    model: str
    queued: float
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    finish_reasons: Sequence[str]
    verdicts: Sequence[tuple[int, Verdict]]


class Tracing:
    """Spans and events of one app. tracer_provider, logger_provider: instead of the process's own."""

    def __init__(self, tracer_provider: Any = None, logger_provider: Any = None) -> None:
        self._tracer = trace.get_tracer(NAME, __version__, tracer_provider=tracer_provider)
        self._logger = _logs.get_logger(NAME, __version__, logger_provider=logger_provider)
        self._providers = (
            tracer_provider or trace.get_tracer_provider(),
            logger_provider or _logs.get_logger_provider(),
        )

    @contextmanager
    def request(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """A request's span, current while the block runs. Put into what it yields: `status`, and what was noted."""
        found: dict[str, Any] = {}
        kind = trace.SpanKind.SERVER
        span = self._tracer.start_span(scope["method"][:16], propagate.extract(headers), kind=kind)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield found
        finally:
            if span.is_recording():
                self._end_request(span, scope, found)
            span.end()

    def _end_request(self, span: Any, scope: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        route, status = getattr(scope.get("route"), "path", None), found.get("status", 0)
        span.update_name(f"{scope['method'][:16]} {route}" if route else scope["method"][:16])
        span.set_attribute("http.request.method", scope["method"][:16])
        span.set_attribute("http.response.status_code", status)
        if route:
            span.set_attribute("http.route", route)
        for name, value in found.get("notes", {}).items():
            if value is not None:
                span.set_attribute(f"groundwire.{name}", value)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(trace.StatusCode.ERROR)

    def generated(self, answer: Generated) -> None:
        """The stages of the current request, which ends with its last token and its verdicts now."""
        if not trace.get_current_span().is_recording():
            return
        now = time.time_ns()
        begun = now - int(answer.seconds * SECOND)
        self._span("queue", begun - int(answer.queued * SECOND), begun, {})
        attributes = {
            "gen_ai.operation.name": answer.operation,
            "gen_ai.provider.name": NAME,
            "gen_ai.request.model": answer.model,
            "gen_ai.response.id": answer.id,
            "gen_ai.response.finish_reasons": tuple(answer.finish_reasons),
            "gen_ai.usage.input_tokens": answer.prompt_tokens,
            "gen_ai.usage.output_tokens": answer.completion_tokens,
        }
        context = self._span("generate", begun, now, attributes)
        for index, verdict in answer.verdicts:
            self._check(now, verdict, answer.id, index)
            self._event(verdict, answer.id, index, context)

    def checked(self, verdict: Verdict, name: str) -> None:
        """A verdict on an answer that was not generated here. `name` is the answer's id."""
        context = self._check(time.time_ns(), verdict, name)
        self._event(verdict, name, None, context)

    def flush(self) -> None:
        """Have what was recorded sent."""
        for provider in self._providers:
            getattr(provider, "force_flush", lambda: None)()

    def _check(self, end: int, verdict: Verdict, name: str, index: int | None = None) -> Any:
        found = verdict.detection
        seconds = found.check_seconds + (found.forward_seconds if index is None else 0.0)  # or it was generate's
        attributes = {"groundwire.status": found.status, **_about(name, index)}
        return self._span("check", end - int(seconds * SECOND), end, attributes)

    def _span(self, name: str, start: int, end: int, attributes: Mapping[str, Any]) -> Any:
        """A span that is over, under the current one; the context under it."""
        span = self._tracer.start_span(name, start_time=start, attributes=dict(attributes))
        span.end(end)
        return trace.set_span_in_context(span)

    def _event(self, verdict: Verdict, name: str, index: int | None, context: Any) -> None:
        found = verdict.detection
        attributes = {
            "gen_ai.evaluation.name": EVALUATION,
            "gen_ai.evaluation.score.label": _label(verdict),
            "gen_ai.evaluation.explanation": explanation(verdict),
            "gen_ai.response.id": name,
            **_about(name, index),
        }
        if found.score is not None:
            attributes["gen_ai.evaluation.score.value"] = found.score
        if found.reason in FAILURES:
            attributes["error.type"] = str(found.reason)
        self._logger.emit(timestamp=time.time_ns(), context=context, event_name=EVENT, attributes=attributes)


def explanation(verdict: Verdict) -> str:
    """Why a verdict is what it is, in the detector's words alone: never in those of an answer."""
    found = verdict.detection
    if found.score is None:
        return f"not checked: {found.reason}"
    side = "above" if verdict.flagged else "not above"
    named = "; ".join(f"{c.term.name} ({c.contribution:+.2f})" for c in found.contributions[:TERMS])
    return f"{found.score:.3f} is {side} the threshold {verdict.threshold:.3f}; most by {named or 'no term'}"


def configure(environment: Mapping[str, str] = os.environ) -> None:
    """Set the process's SDK up where OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT asks for it, unless somebody
    has. Raises InputError where what is asked for is not installed."""
    name = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if _endpoint(environment) else "none")
    if name == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    try:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise _missing(name) from None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    spans, events = _exporter("traces", name), _exporter("logs", environment.get("OTEL_LOGS_EXPORTER") or name)
    service = environment.get("OTEL_SERVICE_NAME", NAME)
    resource = Resource.create({"service.name": service, "service.version": __version__})
    tracers, loggers = TracerProvider(resource=resource), LoggerProvider(resource=resource)
    if spans is not None:
        tracers.add_span_processor(BatchSpanProcessor(spans))
    if events is not None:
        loggers.add_log_record_processor(BatchLogRecordProcessor(events))
    trace.set_tracer_provider(tracers)
    _logs.set_logger_provider(loggers)


def _endpoint(environment: Mapping[str, str]) -> bool:
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))


def _exporter(signal: str, name: str) -> Any:
    """The exporter that the variables name; None for "none"."""
    if name == "none":
        return None
    found = list(entry_points(group=f"opentelemetry_{signal}_exporter", name=EXPORTERS.get(name, name)))
    if not found:
        raise _missing(name)
    return found[0].load()()


def _missing(name: str) -> InputError:
    return InputError(
        f"the OpenTelemetry exporter {name!r}, which the environment asks for, is not installed",
        expected="OpenTelemetry's SDK and that exporter",
        remedy='pip install "groundwire[server,otel]", or set OTEL_TRACES_EXPORTER=none',
    )


def _about(name: str, index: int | None) -> dict[str, Any]:
    return {"groundwire.choice": index} if index is not None else {"groundwire.id": name}


def _label(verdict: Verdict) -> str:
    return "not_checked" if verdict.flagged is None else "flagged" if verdict.flagged else "passed"
