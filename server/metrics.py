"""What an operator watches: requests, tokens, seconds per stage, scores, flags, what was not checked, the queue.

Every app has its own registry. Labels take values from closed lists, so that no client can make the registry grow.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from groundwire.types import Verdict

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
SCORES = tuple(i / 20 for i in range(1, 21))

TEXT = {"text/plain": {"schema": {"type": "string"}}}

router = APIRouter()


class Metrics:
    """The counters of one app. Thread-safe, as prometheus-client's are."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "groundwire_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "groundwire_request_seconds",
            "Seconds from the first byte of a request to the last of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "groundwire_tokens", "Tokens read (prompt) and generated (completion).", ["kind"], registry=registry
        )
        self._stages = Histogram(
            "groundwire_stage_seconds", "Seconds of each stage.", ["stage"], buckets=SECONDS, registry=registry
        )
        self._scores = Histogram(
            "groundwire_score", "Scores of checked answers.", ["source"], buckets=SCORES, registry=registry
        )
        self._flagged = Counter("groundwire_flagged", "Answers above their threshold.", ["source"], registry=registry)
        self._unchecked = Counter(
            "groundwire_not_checked", "Answers without a verdict, by reason.", ["source", "reason"], registry=registry
        )
        self._dropped = Counter("groundwire_verdict_log_dropped", "Verdicts the log could not take.", registry=registry)
        self._unobserved = Counter(
            "groundwire_observer_dropped", "Answers that were to be observed and were not.", registry=registry
        )
        self._depth = Gauge(
            "groundwire_queue", "Requests in the engine, by state: waiting or active.", ["state"], registry=registry
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request has been answered. `route` is the route's own path, never the client's."""
        self._requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tokens(self, *, prompt: int = 0, completion: int = 0) -> None:
        self._tokens.labels("prompt").inc(prompt)
        self._tokens.labels("completion").inc(completion)

    def stage(self, name: str, seconds: float) -> None:
        """`name` is a constant of the code, such as "queue", "first_token", "forward", "check"."""
        self._stages.labels(name).observe(seconds)

    def verdict(self, verdict: Verdict, source: str) -> None:
        """One answer has its verdict. `source` is where the answer came from, such as "engine" or "detect"."""
        detection = verdict.detection
        if detection.score is None:
            self._unchecked.labels(source, str(detection.reason)).inc()
            return
        self._scores.labels(source).observe(detection.score)
        self._flagged.labels(source).inc(bool(verdict.flagged))
        self.stage("forward", detection.forward_seconds)
        self.stage("check", detection.check_seconds)

    def verdict_dropped(self) -> None:
        self._dropped.inc()

    def observation_dropped(self) -> None:
        self._unobserved.inc()

    def watch_queue(self, waiting: Callable[[], int], active: Callable[[], int]) -> None:
        """Have the queue's gauges ask these functions whenever they are read."""
        self._depth.labels("waiting").set_function(waiting)
        self._depth.labels("active").set_function(active)

    def render(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)


@router.get("/metrics", response_class=Response, responses={200: {"content": TEXT}})
async def metrics(request: Request) -> Response:
    """Metrics in Prometheus' text format."""
    return Response(request.app.state.metrics.render(), media_type=CONTENT_TYPE_LATEST)
