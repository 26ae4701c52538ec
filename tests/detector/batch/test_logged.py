from __future__ import annotations

import json

import pytest

from groundwire.batch.logged import from_log
from groundwire.batch.rows import parse_row
from groundwire.errors import InputError

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
REPLY = {"id": "chat-1", "choices": [{"message": {"role": "assistant", "content": "a"}}]}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"request": {"messages": MESSAGES}, "response": REPLY}, "chat-1"),
        ({"id": 7, "request": {"messages": MESSAGES}, "response": REPLY}, "7"),
        ({"custom_id": "c", "body": {"messages": MESSAGES}, "response": {"status_code": 200, "body": REPLY}}, "c"),
        ({"custom_id": "c", "request": {"body": {"messages": MESSAGES}}, "response": {"body": REPLY}}, "c"),
        ({"request": json.dumps({"messages": MESSAGES}), "response": json.dumps(REPLY)}, "chat-1"),
    ],
)
def test_calls_are_read_as_they_are_logged(row, name):
    example = parse_row(from_log(row))
    assert (example.id, example.messages, example.response) == (name, [{"role": "user", "content": "q"}], "a")


def test_a_completion_has_its_prompt_and_text():
    example = parse_row(from_log({"id": 1, "request": {"prompt": "p"}, "response": {"choices": [{"text": "a"}]}}))
    assert (example.messages[0]["content"], example.response) == ("p", "a")


def test_other_rows_stay_as_they_are():
    row = {"prompt": "p", "response": "r", "request": "a text"}
    assert from_log(row) is row


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"choices": []}, "0 choices"),
        ({"choices": REPLY["choices"] * 2}, "2 choices"),
        ({"error": {"code": "x"}}, "call failed"),
    ],
)
def test_a_call_without_exactly_one_answer_is_refused(reply, message):
    with pytest.raises(InputError, match=message):
        from_log({"request": {"messages": MESSAGES}, "response": reply})
