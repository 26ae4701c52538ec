from __future__ import annotations

import pytest

from groundwire.batch.rows import NoPassages, parse_row
from groundwire.errors import InputError
from groundwire.prompts import grounded_messages
from groundwire.types import Passage


def test_prompt_alone_is_one_user_message():
    example = parse_row({"id": "a", "prompt": "Where?", "response": "Here.", "label": 1})
    assert (example.id, example.response) == ("a", "Here.")
    assert example.messages == [{"role": "user", "content": "Where?"}]
    assert example.passages == []


def test_messages_keep_their_order_and_lose_other_fields():
    messages = [{"role": "system", "content": "Be short.", "name": "x"}, {"role": "user", "content": "Where?"}]
    example = parse_row({"id": "a", "messages": messages, "response": "Here."})
    assert example.messages == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Where?"},
    ]


@pytest.mark.parametrize(
    ("context", "passages"),
    [
        ("one", [Passage("one")]),
        (["one", "two"], [Passage("one"), Passage("two")]),
        (["one", {"id": 7, "text": "two"}, {"text": "three"}], [Passage("one"), Passage("two", "7"), Passage("three")]),
    ],
)
def test_context_and_question_are_rendered_as_the_guard_renders_them(context, passages):
    example = parse_row({"id": "a", "context": context, "question": "Why?", "response": "So."})
    assert example.messages == grounded_messages("Why?", passages)
    assert example.passages == passages


def test_what_is_closest_to_the_model_counts():
    row = {"id": "a", "context": "c", "question": "q", "prompt": "p", "response": "r"}
    assert parse_row(row).messages[0]["content"] == "p"
    row["messages"] = [{"role": "user", "content": "m"}]
    assert parse_row(row).messages[0]["content"] == "m"
    assert parse_row(row | {"messages": None}).messages[0]["content"] == "p"


@pytest.mark.parametrize(("given", "expected"), [(7, "7"), ("7", "7"), (0, "0"), ("größe", "größe")])
def test_ids_become_strings(given, expected):
    assert parse_row({"id": given, "prompt": "p", "response": "r"}).id == expected


def test_a_row_without_id_takes_the_default():
    assert parse_row({"prompt": "p", "response": "r"}, default_id="line-3").id == "line-3"
    with pytest.raises(InputError, match="no id"):
        parse_row({"prompt": "p", "response": "r"})


def test_an_empty_response_is_a_valid_row():
    assert parse_row({"id": 1, "prompt": "p", "response": ""}).response == ""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["not", "an", "object"], "the row is list"),
        ({"prompt": "p"}, '"response" is missing'),
        ({"prompt": "p", "response": None}, '"response" is missing'),
        ({"prompt": "p", "response": ["r"]}, '"response" is list'),
        ({"response": "r"}, "no prompt"),
        ({"prompt": 3, "response": "r"}, '"prompt" is int 3'),
        ({"messages": [], "response": "r"}, '"messages" is list'),
        ({"messages": "hello", "response": "r"}, '"messages" is str'),
        ({"messages": ["hello"], "response": "r"}, "message 0 is str"),
        ({"messages": [{"content": "hello"}], "response": "r"}, 'message 0: "role" is missing'),
        ({"messages": [{"role": "user", "content": [1]}], "response": "r"}, 'message 0: "content" is list'),
        ({"context": "c", "response": "r"}, '"question" is missing'),
        ({"context": {"text": "c"}, "question": "q", "response": "r"}, '"context" is dict'),
        ({"context": ["c", 3], "question": "q", "response": "r"}, 'passage 1: "text" is int 3'),
        ({"id": 1.5, "prompt": "p", "response": "r"}, '"id" is float'),
        ({"id": True, "prompt": "p", "response": "r"}, '"id" is bool'),
        ({"prompt": "p", "response": "half \ud83d"}, "surrogate"),
    ],
)
def test_unusable_rows_say_what_was_given_and_expected_and_how_to_fix_it(row, message):
    with pytest.raises(InputError) as caught:
        parse_row(row, default_id="line-1")
    assert message in caught.value.given
    assert caught.value.expected
    assert caught.value.remedy
    assert not isinstance(caught.value, NoPassages)


@pytest.mark.parametrize(
    "fields", [{"context": ""}, {"context": []}, {"context": None}, {"context": [" "]}, {"prompt": ""}]
)
def test_nothing_to_be_faithful_to(fields):
    with pytest.raises(NoPassages):
        parse_row({"id": 1, "question": "q", "response": "r"} | fields)
