"""The endpoint over the real model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from groundwire.detector import Detector
from groundwire.engines.reader import Reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.server import chat
from groundwire.server.settings import Settings

pytestmark = pytest.mark.model

PASSAGES = [
    {"id": "1", "text": "The Kastrup bridge opened in 1931. It is 642 metres long and was designed by Ida Holm."},
    {"id": "2", "text": "Until 1972 a toll was charged to cross the bridge."},
]
QUESTION = "When did the Kastrup bridge open, and who designed it?"


@pytest.fixture(scope="module")
def server(reader: Reader, serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    from groundwire.detector import DEFAULT_ARTIFACT, Artifact

    engine = TransformersEngine(reader, Artifact.from_pretrained(DEFAULT_ARTIFACT).hookpoint)
    with serving(settings=Settings(), detector=Detector.from_pretrained(engine=engine)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def body(server: Any, **options: Any) -> dict[str, Any]:
    return {
        "model": server.app.state.detector.engine.model_id,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 32,
        "temperature": 0,
        "extra_body": {"hallucination": {"passages": PASSAGES, **options}},
    }


def verdict(choice: Any) -> Any:
    return choice.model_extra["hallucination"]


def test_streaming_and_not_the_same_words_have_the_same_verdict(server, client):
    asked = body(server, tokens=True)
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.message.content
    found = verdict(whole)
    assert found["status"] == "checked"
    assert verdict(chunks[-1].choices[0])["score"] == found["score"]
    tokens, content = found["tokens"], whole.logprobs.content
    assert [t["token"] for t in tokens] == [c.token for c in content]
    assert all(c.logprob == max(t.logprob for t in c.top_logprobs) for c in content)  # greedy


def test_the_verdict_is_that_of_detect(server, client):
    whole = client.chat.completions.create(**body(server)).choices[0]
    row = {"question": QUESTION, "context": PASSAGES, "response": whole.message.content}
    detected = server.client.post("/v1/detect", json=row).json()["hallucination"]
    assert detected["score"] == pytest.approx(verdict(whole)["score"], abs=1e-3)


def test_eight_at_once_each_get_their_own(server, client):
    words = ["red", "blue", "green", "white", "black", "grey", "pink", "brown"]
    asked = [
        body(server) | {"messages": [{"role": "user", "content": f"Repeat this word: {word}"}], "max_tokens": 12}
        for word in words
    ]
    alone = [client.chat.completions.create(**one).choices[0] for one in asked[:2]]

    async def run() -> list[Any]:
        async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", timeout=120) as many:
            return await asyncio.gather(*(many.chat.completions.create(**one) for one in asked))

    together = [response.choices[0] for response in asyncio.run(run())]
    for one, other in zip(alone, together, strict=False):
        assert one.message.content == other.message.content
        assert verdict(one)["score"] == pytest.approx(verdict(other)["score"], abs=1e-3)


def test_the_same_seed_draws_the_same_answer(server, client):
    asked = body(server) | {"temperature": 1.0, "seed": 11}
    first, again = (client.chat.completions.create(**asked, n=2).choices for _ in range(2))
    assert [c.message.content for c in first] == [c.message.content for c in again]
    assert first[0].message.content != first[1].message.content


@pytest.mark.parametrize("policy", ["redact", "block", "regenerate", "halt"])
def test_policies_act_on_a_flagged_answer(server, client, policy):
    asked = body(server, policy=policy, threshold=0.0, halt_threshold=0.0)
    choice = client.chat.completions.create(**asked).choices[0]
    found = verdict(choice)
    assert found["flagged"] is True
    assert found["action"] in (policy, "annotate" if not found["spans"] else policy)
    if policy == "regenerate":
        assert found["attempts"][0]["status"] == "checked"
        assert sum(attempt["kept"] for attempt in found["attempts"]) == 1
    if policy in ("block", "halt"):
        assert choice.finish_reason == "content_filter"


def test_the_route_is_the_one_that_is_served(server):
    assert chat.router.routes[0].path in server.client.get("/openapi.json").json()["paths"]
