"""The wiring: routes, their description, layers in order, and what starts and stops with the app."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import httpx
import pytest
from fastapi.responses import StreamingResponse

from groundwire.detector import DEFAULT_TARGET, Detector
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.server import app as module
from groundwire.server.app import create_app, load_detector
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings


@pytest.fixture(scope="module")
def server(serving):
    with serving(settings=Settings(api_keys=(hash_key("k"),), max_body_bytes=100)) as running:
        yield running


def test_the_routes_are_these(server):
    paths = set(server.app.openapi()["paths"])
    assert paths >= {
        "/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model}", "/v1/detect",
        "/health", "/ready", "/version", "/metrics",
    }  # fmt: skip


def test_no_page_of_the_framework_s_is_served(server):
    for path in ("/docs", "/redoc"):
        assert server.client.get(path, headers={"authorization": "Bearer k"}).status_code == 404


def test_every_operation_documents_its_errors(server):
    for path, operations in server.app.openapi()["paths"].items():
        for operation in operations.values():
            assert {"4XX", "5XX"} <= set(operation["responses"]), path
            assert "422" not in operation["responses"], path
            error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorBody"}


def test_keys_come_before_what_a_body_says(server):
    assert server.client.post("/v1/detect", content=b"{").status_code == 401
    big = server.client.post("/v1/detect", content=b"x" * 200, headers={"authorization": "Bearer k"})
    assert big.status_code == 413
    assert big.headers["x-request-id"]


def test_state_holds_what_the_routers_need(served):
    state = served().app.state
    assert isinstance(state.detector, Detector)
    assert (state.loop.active, state.verdict_log, state.upstream, state.stopping) == (0, None, None, False)


def test_without_a_detector_the_settings_one_is_loaded(monkeypatch, serving):
    asked = []
    monkeypatch.setattr(module, "load_detector", lambda settings: asked.append(settings) or fake_detector())
    settings = Settings(threshold=0.9)
    app = create_app(settings)

    async def run():
        async with app.router.lifespan_context(app):
            assert app.state.detector.id == "fake"

    asyncio.run(run())
    assert asked == [settings]


def test_the_detector_is_loaded_as_the_settings_say(monkeypatch, tmp_path):
    seen, fake = {}, fake_detector()
    monkeypatch.setattr(
        Detector, "from_pretrained", lambda artifact, **rest: seen.update(artifact=artifact, **rest) or fake
    )
    given = {"model": "m", "threshold": 0.3, "target": "fpr<=0.05", "prevalence": 0.2, "reading": "own"}
    found = load_detector(Settings(detector=tmp_path, **given))
    assert found is fake
    assert seen == {"artifact": tmp_path, **given}
    seen.clear()
    load_detector(Settings())
    default = {"target": DEFAULT_TARGET}
    assert seen == {"artifact": None, "model": None, "threshold": None, "prevalence": None, "reading": None, **default}


def test_a_log_that_cannot_be_written_is_said_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        create_app(Settings(verdict_log=tmp_path))


def test_nothing_is_left_when_it_stops(serving):
    before = set(threading.enumerate())
    with serving() as running:
        running.client.get("/health")
    assert set(threading.enumerate()) <= before


def test_requests_under_way_are_finished_when_it_stops(serving):
    with serving(settings=Settings(shutdown_seconds=10)) as running:

        @running.app.get("/slow")
        async def slow() -> dict[str, bool]:
            await asyncio.sleep(0.7)
            return {"done": True}

        replies = []
        thread = threading.Thread(target=lambda: replies.append(running.client.get("/slow")))
        thread.start()
        time.sleep(0.3)
        running.server.should_exit = True
        thread.join()
    assert replies[0].json() == {"done": True}


def test_requests_that_do_not_finish_in_time_are_told(serving):
    with serving(settings=Settings(shutdown_seconds=1)) as running:

        @running.app.get("/forever")
        async def forever() -> None:
            await asyncio.sleep(60)

        replies = []
        thread = threading.Thread(target=lambda: replies.append(running.client.get("/forever")))
        thread.start()
        time.sleep(0.3)
        running.server.should_exit = True
        thread.join()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{running.base_url}/health")
    assert replies[0].status_code == 503
    assert replies[0].json()["error"]["code"] == "shutting_down"


def test_streams_that_do_not_finish_in_time_say_so(serving):
    with serving(settings=Settings(shutdown_seconds=1)) as running:

        @running.app.get("/stream")
        async def stream() -> StreamingResponse:
            async def events():
                while True:
                    yield b"data: 1\n\n"
                    await asyncio.sleep(0.05)

            return StreamingResponse(events(), media_type="text/event-stream")

        with running.client.stream("GET", "/stream") as reply:
            parts = reply.iter_lines()
            assert next(parts) == "data: 1"
            running.server.should_exit = True
            last = [line for line in parts if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"


def test_the_event_loop_answers_while_answers_are_scored(served, row, monkeypatch):
    detector = fake_detector()
    score = detector.score_batch

    def slow(examples):
        time.sleep(0.8)
        return score(examples)

    monkeypatch.setattr(detector, "score_batch", slow)
    server = served(detector=detector)
    thread = threading.Thread(target=lambda: server.client.post("/v1/detect", json=row))
    thread.start()
    time.sleep(0.1)
    with httpx.Client(base_url=server.base_url) as other:
        assert all(other.get("/health").elapsed.total_seconds() < 0.3 for _ in range(10))
    assert thread.is_alive()
    thread.join()
