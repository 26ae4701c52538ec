"""Chat completions through the official client and a real server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from groundwire.engines.fake import fake_detector
from groundwire.server import chat
from groundwire.server.settings import Settings

PASSAGES = [{"id": "b", "text": "The bridge opened in 1931 and is 642 metres long."}]
QUESTION = "When did the bridge open?"
GOOD, BAD = "The bridge opened in 1931.", "The bridge opened in Tokyo in 1931."
ANSWERS = {"Answer again": GOOD, QUESTION: BAD, "bridge long?": "The bridge is 642 metres long."}


@pytest.fixture(scope="module")
def server(serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    with serving(settings=Settings(), detector=fake_detector(ANSWERS)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(content: str = QUESTION) -> list[Any]:
    return [{"role": "user", "content": content}]


def options(**given: Any) -> dict[str, Any]:
    return {"hallucination": {"passages": PASSAGES, **given}}


def ask(client: OpenAI, messages: Any = None, body: Any = None, **fields: Any) -> Any:
    messages = user() if messages is None else messages
    return client.chat.completions.create(
        model="fake", messages=messages, extra_body=options() if body is None else body, **fields
    )


def verdict(choice: Any) -> Any:
    return choice.model_extra["hallucination"]


def test_the_verdict_is_on_the_choice(client):
    response = ask(client)
    assert response.object == "chat.completion"
    assert response.id.startswith("chatcmpl-")
    assert response.system_fingerprint.startswith("fp_")
    (choice,) = response.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (BAD, "assistant", "stop")
    found = verdict(choice)
    assert (found["status"], found["flagged"], found["action"]) == ("checked", True, "annotate")
    assert [span["text"] for span in found["spans"]] == ["Tokyo"]
    assert found["spans"][0]["evidence"]["passage_id"] == "b"
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens
    assert response.usage.completion_tokens == 8


def streamed(client: OpenAI, **given: Any) -> tuple[list[Any], str, Any]:
    """The chunks, the text in them and the verdict on the last choice's."""
    chunks = list(ask(client, stream=True, **given))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    (last,) = [choice for choice in choices if choice.finish_reason]
    return chunks, text, verdict(last)


@pytest.mark.parametrize("policy", ["annotate", "redact", "block", "regenerate", "halt", "hold"])
@pytest.mark.parametrize("question", [QUESTION, "Is the bridge long?"])
def test_a_stream_says_the_same_as_a_whole_answer(client, policy, question):
    body = options(policy=policy, tokens=True)
    whole = ask(client, user(question), body).choices[0]
    chunks, text, found = streamed(client, messages=user(question), body=body)
    assert text == whole.message.content
    assert found == verdict(whole)
    finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert finish == [whole.finish_reason]


def test_a_stream_is_as_openai_streams(client):
    chunks, text, _ = streamed(client, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert text == BAD
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-2].choices[0].delta.content is None


def test_without_asking_there_is_no_usage_chunk(client):
    chunks, _, _ = streamed(client)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_the_stream_ends_with_done(server):
    body = {"model": "fake", "messages": user(), "stream": True}
    response = server.client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert "x-groundwire-status" not in response.headers


def test_the_async_client_too(server):
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
            asked = client.chat.completions.create
            whole = await asked(model="fake", messages=user(), extra_body=options())
            assert verdict(whole.choices[0])["flagged"] is True
            stream = await asked(model="fake", messages=user(), extra_body=options(), stream=True)
            chunks = [chunk async for chunk in stream]
            assert verdict(chunks[-1].choices[0]) == verdict(whole.choices[0])
            answers = await asyncio.gather(
                *(asked(model="fake", messages=user(f"Say number{i} now please"), max_tokens=4) for i in range(30))
            )
            assert [a.choices[0].message.content for a in answers] == [f"Say number{i} now please" for i in range(30)]

    asyncio.run(run())


def test_the_running_score_rides_on_content_chunks_when_asked_for(client):
    chunks, _, found = streamed(client, body=options(running=True))
    content = [chunk.choices[0] for chunk in chunks if chunk.choices[0].delta.content]
    running = [verdict(choice)["score"] for choice in content if "hallucination" in choice.model_extra]
    assert len(running) == len(content) - 1  # the first word was no input yet
    assert running[0] < 0.5 < running[-1]
    assert found["status"] == "checked"
    plain, _, _ = streamed(client)
    assert all("hallucination" not in c.choices[0].model_extra for c in plain if c.choices[0].delta.content)


def test_token_scores_are_aligned_with_logprobs(client):
    for policy in ("annotate", "halt", "regenerate"):
        choice = ask(client, body=options(tokens=True, policy=policy), logprobs=True, top_logprobs=2).choices[0]
        tokens, content = verdict(choice)["tokens"], choice.logprobs.content
        assert [t["token"] for t in tokens] == [c.token for c in content]
        assert "".join(c.token for c in content) == choice.message.content
        assert content[0].top_logprobs[0].token == content[0].token
    assert ask(client).choices[0].logprobs is None
    assert verdict(ask(client).choices[0])["tokens"] is None


def test_streamed_logprobs_are_those_of_a_whole_answer(client):
    whole = ask(client, logprobs=True).choices[0].logprobs.content
    chunks, _, _ = streamed(client, logprobs=True)
    content = [c for chunk in chunks if (given := chunk.choices[0].logprobs) for c in given.content]
    assert [c.token for c in content] == [c.token for c in whole]
    assert content[0].top_logprobs == []


def test_several_choices(client):
    response = ask(client, n=3, seed=1)
    assert [choice.index for choice in response.choices] == [0, 1, 2]
    assert all(verdict(choice)["flagged"] for choice in response.choices)
    assert response.usage.completion_tokens == 24
    assert response.usage.prompt_tokens == ask(client).usage.prompt_tokens
    chunks = list(ask(client, n=3, stream=True))
    ends = [choice for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert sorted(choice.index for choice in ends) == [0, 1, 2]
    assert all(verdict(choice)["flagged"] for choice in ends)


def test_sampling_fields_reach_the_model(client):
    assert ask(client, max_tokens=3).choices[0].message.content == "The bridge opened"
    assert ask(client, max_completion_tokens=3).choices[0].finish_reason == "length"
    stopped = ask(client, stop=[" Tokyo", "never"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("The bridge opened in", "stop")
    assert ask(client, temperature=0, top_p=0.5, seed=7, user="me").choices[0].message.content == BAD


def test_headers_repeat_the_verdict(server):
    body = {"model": "fake", "messages": user(), **options()}
    headers = server.client.post("/v1/chat/completions", json=body).headers
    assert (headers["x-groundwire-status"], headers["x-groundwire-flagged"]) == ("checked", "true")
    assert float(headers["x-groundwire-score"]) > float(headers["x-groundwire-threshold"])


def test_small_talk_is_not_checked(client):
    found = verdict(ask(client, user("Hello there!"), {}).choices[0])
    assert (found["status"], found["reason"]) == ("not_checked", "no_passages")
    assert found["score"] is found["flagged"] is None


def test_no_passages_can_be_said(client):
    assert verdict(ask(client, body={"hallucination": {"passages": []}}).choices[0])["reason"] == "no_passages"


def test_checking_can_be_switched_off(client):
    assert verdict(ask(client, body={"hallucination": {"enabled": False}}).choices[0]) is None
    _, text, found = streamed(client, body={"hallucination": {"enabled": False}})
    assert (text, found) == (BAD, None)


def test_results_of_tools_are_passages(client):
    call = {"id": "c7", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    messages = [
        *user(),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c7", "content": "The bridge opened in 1931. Is the bridge long? 642 metres"},
    ]
    choice = ask(client, messages, {}).choices[0]
    assert choice.message.content == "The bridge is 642 metres long."
    assert (verdict(choice)["status"], verdict(choice)["flagged"]) == ("checked", False)


def test_a_whole_conversation_with_answers_sent_back(client):
    first = ask(client, body=options(mirror=True)).choices[0]
    message = first.message.model_dump()
    assert message["provider_specific_fields"]["hallucination"]["flagged"] is True
    messages = [*user(), message, *user("Is the bridge long?")]
    second = ask(client, messages).choices[0]
    assert second.message.content == "The bridge is 642 metres long."
    assert verdict(second)["flagged"] is False


def test_policies_act(client):
    redacted = ask(client, body=options(policy="redact")).choices[0]
    assert redacted.message.content == "The bridge opened in [unsupported] in 1931."
    (span,) = verdict(redacted)["spans"]
    assert redacted.message.content[slice(*span["redacted"].values())] == "[unsupported]"
    assert BAD[span["start"] : span["end"]] == "Tokyo"
    blocked = ask(client, body=options(policy="block")).choices[0]
    assert (blocked.message.content, blocked.finish_reason) == (Settings().block_message, "content_filter")
    again = ask(client, body=options(policy="regenerate")).choices[0]
    assert again.message.content == GOOD
    assert [(a["text"], a["kept"]) for a in verdict(again)["attempts"]] == [(BAD, False), (GOOD, True)]
    halted = ask(client, body=options(policy="halt")).choices[0]
    assert (halted.message.content, halted.finish_reason) == ("The bridge opened in Tokyo", "content_filter")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 1000}, "n", "invalid_value"),
        ({"n": 9}, "n", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 4000}, "messages", "context_length_exceeded"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_value"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_value"),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"body": {"top_k": 3}}, "top_k", "unknown_parameter"),
        ({"body": options(policy="delete")}, "hallucination.policy", "invalid_value"),
        ({"body": options(target="none")}, "hallucination.target", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
            "messages[0].content",
            "unsupported_value",
        ),
        ({"messages": user("word " * 3000)}, "messages", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_a_400_that_names_it(client, fields, param, code, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, stream=stream, **fields)
    body = refused.value.body
    assert (body["param"], body["code"], body["type"]) == (param, code, "invalid_request_error")


def test_half_a_surrogate_pair_is_refused(server):
    body = b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}'
    response = server.client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=user())
    assert missing.value.code == "model_not_found"


def test_what_the_operator_allows(served):
    settings = Settings(policy="block", allowed_policies=("block",), block_message="No.")
    server = served(settings=settings, detector=fake_detector(ANSWERS))
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="use one of block"):
            ask(client, body=options(policy="annotate"))
        with pytest.raises(openai.BadRequestError, match="unchecked"):
            ask(client, body={"hallucination": {"enabled": False}})
        assert ask(client).choices[0].message.content == "No."
        assert streamed(client)[1] == "No."
        assert ask(client, user("Is the bridge long?")).choices[0].message.content == ANSWERS["bridge long?"]


def test_metrics_and_the_log_know_every_answer(served, tmp_path):
    log = tmp_path / "verdicts.jsonl"
    server = served(settings=Settings(verdict_log=log), detector=fake_detector(ANSWERS))
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
        ask(client, n=2)
        list(ask(client, user("Hello there!"), {}, stream=True))
        metrics = server.client.get("/metrics").text
        deadline = time.monotonic() + 30
        while not log.exists() or log.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(row["id"].rpartition("-")[2] for row in rows) == ["0", "0", "1"]
    assert BAD not in log.read_text()
    assert 'groundwire_flagged_total{source="engine"} 2.0' in metrics
    assert 'groundwire_not_checked_total{reason="no_passages",source="engine"} 1.0' in metrics
    assert 'groundwire_tokens_total{kind="completion"} 19.0' in metrics
    assert 'groundwire_stage_seconds_count{stage="first_token"} 1.0' in metrics


def test_the_route():
    assert [route.path for route in chat.router.routes] == ["/v1/chat/completions"]
