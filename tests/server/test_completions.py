"""Text completions through the official client and a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from groundwire.engines.fake import fake_detector
from groundwire.server import completions
from groundwire.server.settings import Settings
from groundwire.types import Example

PROMPT = "The bridge opened in 1931. When did the bridge open?"
BAD = "The bridge opened in Tokyo."
ANSWERS = {"Answer again": "In 1931.", "bridge open?": BAD, "long?": "The bridge opened in 1931."}


@pytest.fixture(scope="module")
def server(serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    with serving(settings=Settings(), detector=fake_detector(ANSWERS)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: OpenAI, prompt: Any = PROMPT, **fields: Any) -> Any:
    return client.completions.create(model="fake", prompt=prompt, **fields)


def verdict(choice: Any) -> Any:
    return choice.model_extra["hallucination"]


def test_the_prompt_counts_as_its_passages(client):
    response = ask(client)
    (choice,) = response.choices
    assert response.object == "text_completion"
    assert response.id.startswith("cmpl-")
    assert (choice.text, choice.finish_reason) == (BAD, "stop")
    (alone,) = fake_detector().score_batch([Example("a", [{"role": "user", "content": PROMPT}], BAD)])
    assert (verdict(choice)["score"], verdict(choice)["flagged"]) == (alone.score, True)


def test_passages_of_the_request_come_first(client):
    body = {"hallucination": {"passages": [{"id": "t", "text": "Tokyo has it."}]}}
    found = verdict(ask(client, extra_body=body).choices[0])
    assert found["flagged"] is False


@pytest.mark.parametrize("policy", ["annotate", "redact", "block", "regenerate", "halt", "hold"])
def test_a_stream_says_the_same_as_a_whole_answer(client, policy):
    body = {"hallucination": {"policy": policy, "tokens": True}}
    whole = ask(client, extra_body=body).choices[0]
    chunks = list(ask(client, extra_body=body, stream=True, stream_options={"include_usage": True}))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in choices) == whole.text
    assert verdict(choices[-1]) == verdict(whole)
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == [whole.finish_reason]
    assert chunks[-1].usage.completion_tokens > 0


def test_several_prompts_and_choices(client):
    response = ask(client, [PROMPT, "The bridge opened in 1931. Is it long?"], n=2, logprobs=1)
    assert [choice.index for choice in response.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in response.choices] == [BAD, BAD, ANSWERS["long?"], ANSWERS["long?"]]
    assert [verdict(choice)["flagged"] for choice in response.choices] == [True, True, False, False]
    alone = [ask(client, prompt).usage.prompt_tokens for prompt in (PROMPT, "The bridge opened in 1931. Is it long?")]
    assert response.usage.prompt_tokens == sum(alone)
    logprobs = response.choices[2].logprobs
    assert "".join(logprobs.tokens) == response.choices[2].text
    assert logprobs.text_offset[1] == len(logprobs.tokens[0])
    assert logprobs.top_logprobs[0] == {logprobs.tokens[0]: 0.0}


def test_an_empty_prompt_has_no_passages(client):
    assert verdict(ask(client, "").choices[0])["reason"] == "no_passages"


def test_the_async_client_too(server):
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
            whole = await client.completions.create(model="fake", prompt=PROMPT)
            stream = await client.completions.create(model="fake", prompt=PROMPT, stream=True)
            chunks = [chunk async for chunk in stream]
            assert verdict(chunks[-1].choices[0]) == verdict(whole.choices[0])

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"prompt": ["a"] * 3, "n": 3}, "n"),
        ({"logprobs": 9}, "logprobs"),
    ],
)
def test_what_cannot_be_honoured_is_a_400_that_names_it(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert refused.value.body["param"] == param


def test_too_many_prompts_are_refused_before_they_are_read(server, monkeypatch):
    monkeypatch.setattr(completions, "prompt_passages", None)
    body = {"model": "fake", "prompt": ["a"] * 9, "hallucination": {"passages": ["b"]}}
    assert server.client.post("/v1/completions", json=body).status_code == 400


def test_the_route():
    assert [route.path for route in completions.router.routes] == ["/v1/completions"]
