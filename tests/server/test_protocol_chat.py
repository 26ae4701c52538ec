from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from groundwire.server.protocol_chat import ChatRequest

USER = {"role": "user", "content": "hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "search", "arguments": '{"q": "bridge"}'}}


def request(*messages: Any, **fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": list(messages) or [USER], **fields})


def test_text_parts_are_one_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert request({"role": "user", "content": parts}).conversation() == [{"role": "user", "content": "one\ntwo"}]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file", "video"])
def test_other_parts_are_refused_by_name(kind):
    with pytest.raises(ValidationError, match=f"content of type {kind} is not supported: send text only") as refused:
        request({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": kind, kind: {}}]})
    assert refused.value.errors()[0]["loc"] == ("messages", 0, "content")


@pytest.mark.parametrize("part", [{"type": "text"}, {"type": "text", "text": 5}, "text", {}, {"type": 7}, None])
def test_parts_that_are_none_are_refused(part):
    with pytest.raises(ValidationError, match="each content part is an object"):
        request({"role": "user", "content": [part]})


def test_roles_are_those_a_template_knows():
    body = request(
        {"role": "developer", "content": "Be brief."},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "It opened in 1931."},
        {"role": "function", "name": "search", "content": "It is long."},
    )
    assert body.conversation() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": 'search({"q": "bridge"})'},
        {"role": "tool", "content": "It opened in 1931.", "tool_call_id": "c1"},
        {"role": "tool", "content": "It is long."},
    ]


def test_an_answer_of_this_server_can_be_sent_back():
    mirrored = {"hallucination": {"score": 0.5}}
    answer = {"role": "assistant", "content": "Hi.", "refusal": None, "audio": None, "annotations": []}
    body = request(USER, {**answer, **mirrored, "provider_specific_fields": mirrored}, USER)
    assert body.conversation()[1] == {"role": "assistant", "content": "Hi."}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": 5},
        {"role": "assistant"},
        {"role": "tool", "tool_call_id": "c1"},
        {"role": "robot", "content": "a"},
        {"content": "a"},
        {"role": "user", "content": "a", "extra": 1},
        "hello",
    ],
)
def test_messages_that_say_nothing_are_refused(message):
    with pytest.raises(ValidationError) as refused:
        request(message)
    assert refused.value.errors()[0]["loc"][:2] == ("messages", 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"function_call": {"name": "f"}},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy"}},
        {"prediction": {"type": "content", "content": "a"}},
        {"web_search_options": {}},
        {"reasoning_effort": "high"},
        {"verbosity": "low"},
        {"service_tier": "flex"},
        {"top_logprobs": 2},
        {"logprobs": True, "top_logprobs": 21},
        {"logprobs": 2},
        {"max_tokens": 5, "max_completion_tokens": 6},
        {"metadata": {"a": 1}},
        {"top_k": 5},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(fields):
    with pytest.raises(ValidationError) as refused:
        request(**fields)
    assert refused.value.errors()[0]["loc"][0] == list(fields)[-1]


def test_neutral_and_ineffective_fields_are_accepted():
    body = request(
        tools=[], tool_choice="auto", response_format={"type": "text"}, modalities=["text"], service_tier="auto",
        store=True, metadata={"a": "b"}, user="u", safety_identifier="s", prompt_cache_key="k", audio=None,
    )  # fmt: skip
    assert body.conversation() == [USER]


def test_both_names_of_the_token_limit():
    assert request().token_limit is None
    assert request(max_tokens=5).token_limit == 5
    assert request(max_completion_tokens=6).token_limit == 6
    assert request(max_tokens=6, max_completion_tokens=6).token_limit == 6


def test_alternatives_follow_logprobs():
    assert request().alternatives is None
    assert request(logprobs=False).alternatives is None
    assert request(logprobs=True).alternatives == 0
    assert request(logprobs=True, top_logprobs=3).alternatives == 3


def test_messages_are_needed():
    with pytest.raises(ValidationError):
        ChatRequest.model_validate({"model": "m", "messages": []})


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValidationError):
        request({"role": "user", "content": "\ud800"})
