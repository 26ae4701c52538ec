"""Choices as upstreams write them."""

from __future__ import annotations

import pytest

from groundwire.server.errors import ApiError
from groundwire.server.shapes import ChatShape, Said, TextShape, choices_of

CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"index": 2, "message": {"content": "A."}, "finish_reason": "stop"}, Said(2, "A.", False, "stop")),
        ({"delta": {"content": "A"}, "finish_reason": None}, Said(5, "A")),
        ({"delta": None, "finish_reason": ""}, Said(5, "")),
        ({"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "stop"}, Said(5, "", True, "stop")),
        ({"delta": {}, "finish_reason": "tool_calls"}, Said(5, "", True, "tool_calls")),
        ({"message": {"content": [{"type": "text", "text": "A."}], "tool_calls": []}}, Said(5, "A.")),
    ],
)
def test_what_a_chat_choice_says(choice, said):
    assert ChatShape().said(choice, 5) == said


def test_what_a_text_choice_says():
    assert TextShape().said({"index": 1, "text": " A.", "finish_reason": "length"}) == Said(1, " A.", False, "length")


@pytest.mark.parametrize("choice", [{"index": -1}, {"index": "0"}, {"index": True}, {"message": "text"}])
def test_what_is_no_choice_is_said(choice):
    with pytest.raises(ApiError, match="cannot be read"):
        ChatShape().said(choice)


@pytest.mark.parametrize("reply", [{}, {"choices": {}}, {"choices": ["a"]}])
def test_what_has_no_choices_is_said(reply):
    with pytest.raises(ApiError, match="cannot be read"):
        choices_of(reply)


def test_other_words_leave_nothing_of_the_answer():
    chat = {
        "index": 1,
        "message": {"content": "secret", "reasoning_content": "secret"},
        "logprobs": {"content": "secret"},
    }
    text = {"index": 1, "text": "secret", "logprobs": {"tokens": ["secret"]}, "stop_reason": "secret"}
    for shape, choice in ((ChatShape(), chat), (TextShape(), text)):
        new = shape.reworded(choice, "other")
        assert "secret" not in str(new)
        assert shape.said(new) == Said(1, "other")


def test_a_whole_choice_as_chunks():
    choice = {
        "index": 1,
        "message": {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
        "hallucination": 1,
    }
    chunk = ChatShape().chunk(choice | {"finish_reason": "tool_calls"})
    assert [call["index"] for call in chunk["delta"]["tool_calls"]] == [0, 1]
    assert (chunk["index"], chunk["finish_reason"], "message" in chunk, "hallucination" in chunk) == (
        1,
        None,
        False,
        False,
    )
    assert ChatShape().last(1)["finish_reason"] is None
    assert TextShape().chunk({"index": 0, "text": "a", "finish_reason": "stop", "hallucination": 1}) == {
        "index": 0, "text": "a", "finish_reason": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "choice", "where"),
    [
        (ChatShape(), {"message": {"content": "a", "provider_specific_fields": {"b": 1}}}, "message"),
        (ChatShape(), {"delta": {}}, "delta"),
        (TextShape(), {"text": "a"}, None),
    ],
)
def test_the_mirror(shape, choice, where):
    plain = shape.with_field(choice, {"score": 1}, mirror=False)
    assert plain == {**choice, "hallucination": {"score": 1}}
    new = shape.with_field(choice, {"score": 1}, mirror=True)
    fields = (new[where] if where else new)["provider_specific_fields"]
    assert fields["hallucination"] == {"score": 1}
    assert fields.get("b") == (1 if where == "message" else None)
