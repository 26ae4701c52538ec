"""Metrics: what is counted, under labels that no client can choose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from groundwire.guard import decide
from groundwire.server.metrics import Metrics
from groundwire.types import Detection

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def samples(text):
    """Values by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics():
    return Metrics()


def test_verdicts_by_source(metrics):
    for score in (0.2, 0.9, 0.95):
        detection = Detection("checked", score=score, forward_seconds=2.0, check_seconds=0.5)
        metrics.verdict(decide(detection, 0.5), "engine")
    metrics.verdict(decide(Detection("not_checked", "no_passages"), 0.5), "engine")
    found = samples(metrics.render().decode())
    assert found["groundwire_score_count", "engine"] == 3
    assert found["groundwire_score_bucket", "0.2", "engine"] == 1
    assert found["groundwire_flagged_total", "engine"] == 2
    assert found["groundwire_not_checked_total", "engine", "no_passages"] == 1
    assert found["groundwire_stage_seconds_sum", "forward"] == 6
    assert found["groundwire_stage_seconds_sum", "check"] == 1.5


def test_tokens_stages_queue_and_drops(metrics):
    metrics.tokens(prompt=10, completion=3)
    metrics.tokens(completion=4)
    metrics.stage("queue", 0.25)
    metrics.verdict_dropped()
    depth = [1, 2]
    metrics.watch_queue(lambda: depth[0], lambda: depth[1])
    depth[0] = 5
    found = samples(metrics.render().decode())
    assert (found["groundwire_tokens_total", "prompt"], found["groundwire_tokens_total", "completion"]) == (10, 7)
    assert found["groundwire_stage_seconds_count", "queue"] == 1
    assert found["groundwire_verdict_log_dropped_total",] == 1
    assert (found["groundwire_queue", "waiting"], found["groundwire_queue", "active"]) == (5, 2)


def test_the_endpoint_speaks_prometheus_and_counts_requests(served, row):
    server = served()
    for _ in range(3):
        server.client.post("/v1/detect", json=row)
    server.client.get("/v1/models/x")
    reply = server.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    found = samples(reply.text)
    assert found["groundwire_requests_total", "/v1/detect", "200", "POST"] == 3
    assert found["groundwire_requests_total", "/v1/models/{model:path}", "404", "GET"] == 1
    assert found["groundwire_request_seconds_count", "/v1/detect"] == 3
    assert found["groundwire_queue", "waiting"] == 0
    assert found["process_resident_memory_bytes",] > 0


def test_no_client_can_make_it_grow(served):
    server = served()
    for i in range(30):
        server.client.request(f"VERB{i}", f"/nothing/{i}")
        server.client.get(f"/v1/models/name-{i}", headers={"x-request-id": f"id-{i}"})
    text = server.client.get("/metrics").text
    requests = [line for line in text.splitlines() if line.startswith("groundwire_requests_total")]
    assert len(requests) == 2
    assert 'method="other",route="unmatched",status="404"' in text


def test_two_apps_do_not_share_counters(metrics):
    metrics.tokens(prompt=1)
    assert samples(Metrics().render().decode()).get(("groundwire_tokens_total", "prompt")) is None


def test_the_documented_metrics_are_these(metrics):
    documented = set(re.findall(r"^\| `(groundwire_\w+)`", DOCS.read_text(encoding="utf-8"), re.M))
    families = [f for f in metrics.registry.collect() if f.name.startswith("groundwire_")]
    assert documented == {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
