"""The plugin in an app of vLLM's: its routes, its metrics, what it says, and what keeps the server from starting."""

from __future__ import annotations

import asyncio
import logging
import time
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import httpx
import prometheus_client
import pytest
from fastapi import FastAPI

from groundwire.engines.fake import fake_detector
from groundwire.errors import ArtifactError, CaptureError, InputError
from groundwire.server.vllm import plugin as module
from groundwire.server.vllm.follow import FollowingClient
from groundwire.server.vllm.plugin import PATHS, Plugin
from tests.server.conftest import running
from tests.server.vllm.conftest import QUESTION, attach, stock

CHAT = {"messages": [{"role": "user", "content": QUESTION}]}


@pytest.fixture
def beside(monkeypatch) -> None:
    """The reader that judges where no detector fits is the public fake."""
    monkeypatch.setattr(module, "load_detector", lambda settings: fake_detector())


def test_vllm_finds_it_by_its_entry_point():
    found = {one.name: one.value for one in entry_points(group="vllm.endpoint_plugins")}
    assert found["groundwire"] == "groundwire.server.vllm.plugin:Plugin"
    assert (Plugin.name, Plugin.required_tasks) == ("groundwire", ("generate",))


def test_its_routes_take_the_place_of_vllm_s_and_the_others_stay(serve):
    server = serve()
    said = server.client.post("/v1/chat/completions", json=CHAT).json()
    assert said["choices"][0]["hallucination"]["status"] == "not_checked"  # there are no passages
    assert server.client.post("/v1/completions", json={"prompt": QUESTION}).json()["choices"]
    assert server.client.get("/v1/models").json() == "vLLM's own"
    assert server.client.get("/v1/detect").status_code == 405
    paths = server.client.get("/openapi.json").json()["paths"]
    assert all("hallucination" in paths[path]["post"]["description"] for path in PATHS)


@pytest.mark.parametrize("variable", ["GROUNDWIRE_ON_FAILURE=closed", "GROUNDWIRE_ALLOWED_POLICIES=block"])
def test_where_no_answer_may_go_out_unchecked_the_other_routes_are_closed(serve, monkeypatch, variable):
    assert serve().client.post("/v1/responses", json={}).json() == "vLLM's own"
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    if value == "block":
        monkeypatch.setenv("GROUNDWIRE_POLICY", "block")
    refused = serve().client.post("/v1/responses", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unchecked_route")
    assert "/v1/chat/completions" in refused.json()["error"]["message"]


def test_handlers_ask_through_a_client_that_follows(serve, engine):
    state = serve().app.state
    assert state.engine_client is engine
    for handler in (state.openai_serving_chat, state.openai_serving_completion):
        assert isinstance(handler.engine_client, FollowingClient)


def test_what_it_began_ends_with_the_server(engine, detector_folder, monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_DETECTOR", str(detector_folder))
    plugin = Plugin()
    with running(stock(engine, plugin)) as server:
        loop = plugin._ours.state.loop
        assert not plugin._ours.state.stopping
        assert server.client.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert (plugin._ours.state.stopping, loop._stopped) == (True, True)
    assert server.app.state.ended  # vLLM's own lifespan as well


def test_our_metrics_stand_among_vllm_s(serve):
    server = serve()
    server.client.post("/v1/chat/completions", json=CHAT)
    counted = 'groundwire_requests_total{method="POST",route="/v1/chat/completions",status="200"} 1.0'
    deadline = time.monotonic() + 30  # a request is counted when its reply has gone
    while counted not in (shown := prometheus_client.generate_latest(prometheus_client.REGISTRY).decode()):
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)
    assert "process_" not in shown  # those are vLLM's
    assert "python_" not in shown


# -- what it says


def test_it_says_whose_verdicts_they_are(serve, caplog):
    with caplog.at_level(logging.INFO):
        serve()
    assert "verdicts come from this model's own forward pass (detector tiny)" in caplog.text
    assert "not among the tested" not in caplog.text
    assert "costs one more request" in caplog.text


def test_with_our_scheduler_there_is_nothing_to_spare(serve, engine, caplog):
    engine.linger()
    with caplog.at_level(logging.INFO):
        serve()
    assert "costs one more request" not in caplog.text


def test_it_says_when_nothing_fits_and_what_to_do(engine, beside, caplog):
    with caplog.at_level(logging.INFO), running(stock(engine, Plugin())):
        pass
    assert "no detector fits" in caplog.text
    assert "fake reads prompts and answers beside the engine" in caplog.text
    assert "groundwire train sae" in caplog.text


def test_it_warns_of_a_release_that_was_not_tested(serve, caplog):
    import vllm

    vllm.__version__ = "9.9.9+cu130"
    serve()
    assert "vLLM 9.9.9+cu130 is not among the tested" in caplog.text


# -- what keeps the server from starting


def started(engine: Any) -> FastAPI:
    """An app whose lifespan is over."""

    async def main() -> FastAPI:
        app = stock(engine, Plugin())
        async with app.router.lifespan_context(app):
            return app

    return asyncio.run(asyncio.wait_for(main(), 20))


@pytest.mark.parametrize("name", ["MAX_BATCH", "MODEL", "UPSTREAM_URL", "API_KEYS_FILE"])
def test_settings_that_are_vllm_s_own(monkeypatch, name):
    monkeypatch.setenv(f"GROUNDWIRE_{name}", "8000")
    with pytest.raises(InputError, match=f"--{name.lower().replace('_', '-')}"):
        attach(FastAPI(), Plugin())


def test_a_setting_that_is_wrong(monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_POLICY", "shout")
    with pytest.raises(InputError, match="GROUNDWIRE_POLICY is 'shout'"):
        attach(FastAPI(), Plugin())


def test_a_server_without_an_engine():
    plugin = Plugin()
    attach(FastAPI(), plugin)
    with pytest.raises(CaptureError, match="vllm serve"):
        asyncio.run(plugin.init_state(None, SimpleNamespace(), SimpleNamespace()))


def test_a_detector_that_is_named_and_does_not_fit(engine, monkeypatch):
    from groundwire.detector import DEFAULT_ARTIFACT

    monkeypatch.setenv("GROUNDWIRE_DETECTOR", str(DEFAULT_ARTIFACT))
    with pytest.raises(ArtifactError, match="was trained with another"):
        started(engine)


def test_a_missing_worker(engine, detector_folder, monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_DETECTOR", str(detector_folder))
    assert started(engine).state.ended
    engine.vllm_config.parallel_config.worker_cls = "auto"
    with pytest.raises(InputError, match="--worker-cls"):
        started(engine)


def test_a_request_is_answered_through_an_app_without_sockets(engine, detector_folder, monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_DETECTOR", str(detector_folder))

    async def main() -> httpx.Response:
        app = stock(engine, Plugin())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as client:
                return await client.post("/v1/chat/completions", json=CHAT)

    assert asyncio.run(main()).json()["choices"][0]["finish_reason"] == "stop"
