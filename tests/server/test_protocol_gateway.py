"""What a gateway reads of a request, and what it passes on."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from groundwire.conversation import found_passages
from groundwire.passages import passages_of
from groundwire.server.errors import ApiError
from groundwire.server.protocol_gateway import (
    ForwardedChat,
    ForwardedText,
    encoded,
    joined,
    outgoing,
    readable,
    with_passages,
    without_ours,
)

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def test_everything_but_our_own_field_is_passed_on():
    given = {
        "model": "gpt", "messages": [{"role": "user", "content": "Hi é"}], "tools": [{"type": "function"}],
        "temperature": 0.1, "seed": 2**60, "stop": None, "hallucination": {"enabled": True}, "x": {"hallucination": 1},
    }  # fmt: skip
    ForwardedChat.model_validate(given)
    sent = outgoing(given)
    assert json.loads(encoded(sent)) == sent
    assert sent == {name: value for name, value in given.items() if name != "hallucination"}
    assert outgoing(given, tools=None, n=3).keys() == sent.keys() - {"tools"} | {"n"}


@pytest.mark.parametrize("value", ["\ud800", float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(ApiError) as refused:
        encoded({"model": "m", "user": [value]})
    assert (refused.value.status_code, refused.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("fields", [{"n": 0}, {"n": True}, {"messages": []}, {"messages": ["a"]}, {"model": 1}])
def test_what_is_needed_is_checked(fields):
    with pytest.raises(ValidationError):
        ForwardedChat.model_validate({"model": "m", "messages": [{"role": "user"}], **fields})
    assert ForwardedChat.model_validate({"model": "m", "messages": [{"role": "user"}]}).choices == 1


def test_prompts_are_texts():
    assert ForwardedText.model_validate({"model": "m", "prompt": "a", "suffix": "b"}).prompt == ["a"]
    for fields in ({"prompt": [1, 2]}, {"prompt": "a", "echo": True}):
        with pytest.raises(ValidationError):
            ForwardedText.model_validate({"model": "m", **fields})


def test_the_reader_sees_roles_and_texts():
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE, 7]},
        {"role": "assistant", "content": None, "tool_calls": [call, "odd"]},
        {"role": "tool", "tool_call_id": "1", "content": "A bridge."},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"content": 3, "role": 4, "tool_calls": 5},
    ]
    assert readable(messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": 'look({"a": 1})'},
        {"role": "tool", "content": "A bridge.", "tool_call_id": "1"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": ""},
    ]
    assert joined([{"type": "thinking"}, {"type": "text", "text": "a"}]) == "a"


@pytest.mark.parametrize(
    "messages",
    [
        [
            {"role": "user", "content": "First?"},
            {"role": "assistant", "content": "A."},
            {"role": "user", "content": "B?"},
        ],
        [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE], "name": "me"}],
        [{"role": "system", "content": "Be brief."}],
    ],
)
def test_passages_that_the_messages_lack_are_put_into_them(messages):
    read = readable(messages)
    found = found_passages(read, passages_of(["The bridge opened in 1931."]))
    new = with_passages(messages, read, found.messages)
    assert readable(new) == list(found.messages)
    assert "1931" in str(new[-1])
    assert new[: len(read) - 1] == messages[: len(read) - 1]
    if "name" in messages[0]:
        assert new[0]["content"][1] == IMAGE
        assert new[0]["name"] == "me"


def test_messages_that_hold_them_stay_as_they_are():
    messages = [{"role": "user", "content": [{"type": "text", "text": "It opened in 1931. When?"}, IMAGE]}]
    read = readable(messages)
    assert with_passages(messages, read, found_passages(read, passages_of(["It opened in 1931."])).messages) == messages


@pytest.mark.parametrize("more", [{}, {"cache": 1}])
def test_what_we_added_to_an_answer_is_taken_out_of_it(more):
    verdict = {"hallucination": {"score": 0.5}}
    message = {"role": "assistant", "content": "A.", "x": 1, **verdict, "provider_specific_fields": {**verdict, **more}}
    wanted = {"role": "assistant", "content": "A.", "x": 1}
    assert without_ours(message) == wanted | ({"provider_specific_fields": more} if more else {})
    assert without_ours(wanted) == wanted
