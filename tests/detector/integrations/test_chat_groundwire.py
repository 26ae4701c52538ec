"""LangChain's ChatOpenAI against a real server: the verdict is read from the message the user holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient

from groundwire.integrations.chat_groundwire import ChatGroundwire

LIGHTHOUSE = "The lighthouse was built in 1889 by a builder from Lisbon."
BAD = f"Context:\n{LIGHTHOUSE}\n\nQuestion: When was the lighthouse built?"
GOOD = f"Context:\n{LIGHTHOUSE}\n\nQuestion: When was the tower built?"


def chat(url: str, kind: type[ChatOpenAI] = ChatGroundwire, **options: Any) -> ChatOpenAI:
    return kind(base_url=f"{url}/v1", api_key="none", model="fake", **options)


def verdict(message: Any) -> dict[str, Any]:
    return message.response_metadata["hallucination"]


def test_the_verdict_is_in_the_messages_metadata(server_url: str) -> None:
    message = chat(server_url).invoke(BAD)
    assert message.content == "The lighthouse was built in 1931."
    assert verdict(message)["flagged"] is True
    assert verdict(message)["spans"][0]["text"] == "1931"
    assert verdict(chat(server_url).invoke(GOOD))["flagged"] is False
    assert message.response_metadata["finish_reason"] == "stop"


def test_chat_openai_itself_drops_it(server_url: str) -> None:
    """The day this fails, ChatGroundwire is no longer needed."""
    message = chat(server_url, ChatOpenAI).invoke(BAD)
    assert "hallucination" not in {**message.response_metadata, **message.additional_kwargs}


def test_asynchronously_and_in_a_batch(server_url: str) -> None:
    async def message() -> Any:
        async with DefaultAsyncHttpxClient() as client:
            return await chat(server_url, http_async_client=client).ainvoke(BAD)

    assert verdict(asyncio.run(message()))["flagged"] is True
    assert [verdict(message)["flagged"] for message in chat(server_url).batch([BAD, GOOD])] == [True, False]


def test_each_of_several_answers_has_its_own(server_url: str) -> None:
    result = chat(server_url, n=2).generate([[HumanMessage(BAD)]])
    verdicts = [verdict(generation.message) for generation in result.generations[0]]
    assert [found["flagged"] for found in verdicts] == [True, True]


def test_in_a_stream_it_is_on_the_last_chunk_and_on_their_sum(server_url: str) -> None:
    chunks = list(chat(server_url).stream(BAD))
    assert [verdict(chunk)["flagged"] for chunk in chunks if "hallucination" in chunk.response_metadata] == [True]
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert isinstance(total, AIMessageChunk)
    assert total.content == "The lighthouse was built in 1931."
    assert verdict(total) == verdict(chat(server_url).invoke(BAD))


def test_in_an_asynchronous_stream_with_usage(server_url: str) -> None:
    async def total() -> Any:
        async with DefaultAsyncHttpxClient() as client:
            model = chat(server_url, stream_usage=True, http_async_client=client)
            chunks = [chunk async for chunk in model.astream(BAD)]
        return sum(chunks[1:], start=chunks[0])

    message = asyncio.run(total())
    assert verdict(message)["flagged"] is True
    assert message.usage_metadata["output_tokens"] == 7


def test_running_scores_come_with_the_chunks(server_url: str) -> None:
    model = chat(server_url, extra_body={"hallucination": {"running": True}})
    chunks = list(model.stream(BAD))
    running = [chunk.additional_kwargs["hallucination_running"] for chunk in chunks if chunk.additional_kwargs]
    assert all(len(scores) == 1 for scores in running)
    total = sum(chunks[1:], start=chunks[0])
    assert total.additional_kwargs["hallucination_running"] == [scores[0] for scores in running]
    assert total.additional_kwargs["hallucination_running"][-1] == pytest.approx(verdict(total)["score"])


def test_options_travel_in_the_extra_body(server_url: str) -> None:
    body = {"hallucination": {"passages": [{"id": "tower", "text": LIGHTHOUSE}], "threshold": 0.999}}
    message = chat(server_url, extra_body=body).invoke("When was the lighthouse built?")
    assert verdict(message)["flagged"] is False
    assert verdict(message)["spans"][0]["evidence"]["passage_id"] == "tower"


def test_small_talk_and_a_switched_off_check_say_so(server_url: str) -> None:
    assert verdict(chat(server_url).invoke("Hi!"))["reason"] == "no_passages"
    off = chat(server_url, extra_body={"hallucination": {"enabled": False}})
    assert verdict(off.invoke(BAD)) is None
    assert [verdict(c) for c in off.stream(BAD) if "hallucination" in c.response_metadata] == [None]


def test_another_server_without_the_field(server_url: str) -> None:
    """ChatGroundwire may point at any OpenAI-compatible server."""
    reply = {"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}], "model": "m"}
    message = chat(server_url)._create_chat_result(reply).generations[0].message
    assert isinstance(message, AIMessage)
    assert verdict(message) is None
    chunk = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}
    made = chat(server_url)._convert_chunk_to_generation_chunk(chunk, AIMessageChunk, None)
    assert made is not None
    assert "hallucination" not in made.message.response_metadata
