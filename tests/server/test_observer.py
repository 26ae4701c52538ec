"""Observer mode: answers go out unchecked, and a share is checked afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from openai import OpenAI

from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.server import observer as module
from groundwire.server.app import create_app
from groundwire.server.errors import ApiError
from groundwire.server.metrics import Metrics
from groundwire.server.observer import Observation, Observer, check_observer
from groundwire.server.settings import Settings
from groundwire.server.tracing import Tracing
from groundwire.types import Detection, Example

PASSAGES = ["The bridge opened in 1931 and is 642 metres long."]
QUESTION = "When did the bridge open?"
BAD = "The bridge opened in Tokyo in 1931."


def observation(text: str = BAD, **given: Any) -> Observation:
    example = Example("a", [{"role": "user", "content": QUESTION}], text)
    return Observation(example, "engine", "m", 0.5, **given)


class Loop:
    """An engine that is as busy as it is told to be."""

    def __init__(self) -> None:
        self.detector, self.active, self.waiting = fake_detector(), 0, 0
        self.scored: list[str] = []
        self.failure: Exception | None = None

    async def score(self, examples: Sequence[Example]) -> list[Detection]:
        self.scored += [example.response for example in examples]
        if self.failure:
            raise self.failure
        return self.detector.score_batch(examples)


def state() -> Any:
    return SimpleNamespace(loop=Loop(), metrics=Metrics(), tracing=Tracing(), verdict_log=None)


def dropped(state: Any) -> float:
    return state.metrics.registry.get_sample_value("groundwire_observer_dropped_total")


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)


def test_the_share_depends_on_ids_alone():
    names, chosen = [f"req_{i}" for i in range(2000)], {}
    for share in (0.0, 0.1, 0.5, 1.0):
        chosen[share] = set(filter(Observer(state(), share).chooses, names))
        assert chosen[share] == set(filter(Observer(state(), share).chooses, names))
        assert abs(len(chosen[share]) / len(names) - share) < 0.03
    assert chosen[0.1] < chosen[0.5]


def test_nothing_is_checked_while_the_engine_is_busy():
    async def run() -> None:
        app = state()
        observer = Observer(app, 1.0)
        observer.start()
        for busy in ("active", "waiting"):
            setattr(app.loop, busy, 1)
            observer.offer(observation())
            await asyncio.sleep(0.1)
            assert app.loop.scored == []
            setattr(app.loop, busy, 0)
            await asyncio.sleep(0.1)
            assert app.loop.scored == [BAD]
            app.loop.scored.clear()
        await observer.stop()
        assert dropped(app) == 0

    asyncio.run(run())


def test_the_backlog_is_bounded_and_what_is_dropped_is_counted(monkeypatch):
    monkeypatch.setattr(module, "BACKLOG", 3)
    monkeypatch.setattr(module, "BACKLOG_CHARACTERS", 1000)

    async def run() -> None:
        app = state()
        app.loop.active = 1
        observer = Observer(app, 1.0)
        for _ in range(5):
            observer.offer(observation())
        assert dropped(app) == 2
        await observer.stop()
        assert dropped(app) == 5
        observer = Observer(app, 1.0)
        for _ in range(3):
            observer.offer(observation("x" * 400))
        assert dropped(app) == 6
        observer.start()
        await asyncio.sleep(0.05)
        await observer.stop()  # one is in hand
        assert dropped(app) == 8

    asyncio.run(run())


def test_room_comes_back(monkeypatch):
    monkeypatch.setattr(module, "BACKLOG_CHARACTERS", 100)

    async def run() -> None:
        app = state()
        observer = Observer(app, 1.0)
        observer.start()
        for _ in range(3):
            observer.offer(observation())
            await asyncio.sleep(0.05)
        await observer.stop()
        assert len(app.loop.scored) == 3

    asyncio.run(run())


@pytest.mark.parametrize("failure", [ApiError(429, "full"), RuntimeError("a secret")])
def test_a_check_that_fails_is_dropped_and_the_next_one_done(failure):
    async def run() -> None:
        app = state()
        observer = Observer(app, 1.0)
        observer.start()
        app.loop.failure = failure
        observer.offer(observation())
        await asyncio.sleep(0.05)
        assert dropped(app) == 1
        app.loop.failure = None
        observer.offer(observation(reason="tool_call"))
        observer.offer(observation())
        await asyncio.sleep(0.1)
        await observer.stop()
        metrics = app.metrics.render()
        assert b'groundwire_not_checked_total{reason="tool_call",source="engine"} 1.0' in metrics
        assert b'groundwire_score_count{source="engine"} 1.0' in metrics
        assert len(app.loop.scored) == 2

    asyncio.run(run())


def test_settings_that_contradict_it():
    check_observer(Settings(policy="block"))
    check_observer(Settings(observe_share=0.5))
    for given in ({"policy": "block"}, {"on_failure": "closed"}):
        with pytest.raises(InputError, match="observe_share"):
            create_app(Settings(observe_share=0.5, **given), fake_detector())


def lines(log: Any, count: int) -> list[Any]:
    deadline = time.monotonic() + 30
    while log.read_text().count("\n") < count:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
    return [json.loads(line) for line in log.read_text().splitlines()]


def body(**fields: Any) -> dict[str, Any]:
    given = {"passages": PASSAGES, **fields.pop("options", {})}
    return {"model": "fake", "messages": [{"role": "user", "content": QUESTION}], "hallucination": given, **fields}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("behind", [False, True])
def test_answers_go_out_unchecked_and_are_checked_afterwards(served: Callable[..., Any], tmp_path, stream, behind):
    log = tmp_path / "verdicts.jsonl"
    settings: dict[str, Any] = {"observe_share": 1, "verdict_log": log, "verdict_log_text": True}
    if behind:
        settings["upstream_url"] = f"{served(detector=fake_detector({QUESTION: BAD})).base_url}/v1"
    slow = fake_detector({QUESTION: BAD})
    score = slow.score_batch
    slow.score_batch = lambda examples: time.sleep(3) or score(examples)  # type: ignore[method-assign, func-returns-value]
    server = served(settings=Settings(**settings), detector=slow)
    start = time.monotonic()
    response = server.client.post("/v1/chat/completions", json=body(stream=stream, n=2))
    assert time.monotonic() - start < 2.8
    assert (response.status_code, response.headers["x-groundwire-reason"]) == (200, "observer_mode")
    assert response.headers["x-groundwire-status"] == "disabled"
    whole = (
        [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")] if stream else []
    )
    choices = [c for part in whole or [response.json()] for c in part["choices"] if c["finish_reason"]]
    assert [choice["hallucination"] for choice in choices] == [None, None]
    assert log.read_text() == ""
    found = lines(log, 2)
    assert [(line["response"], line["hallucination"]["flagged"]) for line in found] == [(BAD, True)] * 2
    source = "gateway" if behind else "engine"
    assert [(line["source"], line["hallucination"]["detector"]["same_model"]) for line in found] == [
        (source, not behind)
    ] * 2
    assert f'groundwire_flagged_total{{source="{source}"}} 2.0' in server.client.get("/metrics").text


def test_those_outside_the_share_are_not_checked(served, tmp_path):
    log = tmp_path / "verdicts.jsonl"
    server = served(settings=Settings(observe_share=0.5, verdict_log=log))
    chosen = []
    for i in range(20):
        name = f"r-{i}"
        server.client.post("/v1/chat/completions", json=body(), headers={"x-request-id": name})
        chosen += [name] * server.app.state.observer.chooses(name)
    assert 2 < len(chosen) < 18
    assert len(lines(log, len(chosen))) == len(chosen)
    time.sleep(0.2)
    assert len(lines(log, 0)) == len(chosen)


def test_who_asks_for_no_check_is_not_observed(served, tmp_path):
    log = tmp_path / "verdicts.jsonl"
    server = served(settings=Settings(observe_share=1, verdict_log=log))
    assert server.client.post("/v1/chat/completions", json=body(options={"enabled": False})).status_code == 200
    time.sleep(0.2)
    assert log.read_text() == ""


@pytest.mark.parametrize("options", [{"policy": "block"}, {"running": True}])
@pytest.mark.parametrize("upstream", [None, "http://127.0.0.1:9/v1"])
def test_what_needs_a_check_before_is_refused(served, options, upstream):
    server = served(settings=Settings(observe_share=0, upstream_url=upstream))
    with (
        OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="only observes"),
    ):
        client.chat.completions.create(**{k: v for k, v in body().items() if k != "hallucination"},
                                       extra_body={"hallucination": options})  # fmt: skip
