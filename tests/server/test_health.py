"""Liveness, readiness, version."""

from __future__ import annotations

import groundwire
from groundwire.server import health
from groundwire.server.settings import Settings


def test_a_running_server_is_alive_and_ready(served):
    client = served().client
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready", "active": 0, "waiting": 0}


def test_version_says_what_runs(served):
    assert served(settings=Settings(served_model_name="mine")).client.get("/version").json() == {
        "version": groundwire.__version__,
        "model": "mine",
        "detector": {"id": "fake", "version": "1", "hookpoint": "model.layers.0"},
    }


def test_a_full_queue_is_not_ready_but_alive(served, monkeypatch):
    server = served(settings=Settings(max_queue=3))
    monkeypatch.setattr(type(server.app.state.loop), "waiting", 3)
    reply = server.client.get("/ready")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "queue_full")
    assert server.client.get("/health").status_code == 200


def test_a_stopping_server_is_not_ready_but_alive(served, monkeypatch):
    server = served()
    monkeypatch.setattr(type(server.app.state.loop), "alive", False)
    server.app.state.stopping = True
    reply = server.client.get("/ready")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "shutting_down")
    assert server.client.get("/health").status_code == 200


def test_an_engine_that_has_ended_is_not_alive(served, monkeypatch):
    server = served()
    monkeypatch.setattr(type(server.app.state.loop), "alive", False)
    for path in ("/health", "/ready"):
        reply = server.client.get(path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed")


def test_they_are_documented(served):
    paths = served().client.get("/openapi.json").json()["paths"]
    assert {route.path for route in health.router.routes} == {"/health", "/ready", "/version"} <= set(paths)
