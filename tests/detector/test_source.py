"""What an answer is compared with: the caller's passages, or the messages that may hold some."""

from __future__ import annotations

from typing import Any

import pytest

from groundwire.errors import InputError
from groundwire.source import Source
from groundwire.types import Example, Message, Passage, Request

CHAT: list[Message] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "The tower is 330 metres tall."},
    {"role": "assistant", "content": "I see, and in 1889?"},
    {"role": "tool", "content": "It was opened in 1889."},
]


def test_without_passages_the_messages_that_may_hold_some_are_looked_at():
    for asked in (Example("a", CHAT, "In 1889."), Request("a", CHAT)):
        source = Source.of(asked)
        assert source.passages == (Passage("The tower is 330 metres tall."), Passage("It was opened in 1889."))
        assert source.prompt == "\n\n".join(message["content"] for message in CHAT)


def test_given_passages_are_kept_with_their_ids():
    given = [Passage("It was opened in 1889.", "a")]
    assert Source.of(Example("a", CHAT, "In 1889.", passages=given)).passages == tuple(given)
    assert Source.of(Request("a", CHAT, passages=given)).passages == tuple(given)


def test_its_indexes_are_built_once():
    source = Source.of(Request("a", CHAT))
    assert source.grounding is source.grounding
    assert source.evidence is source.evidence
    assert source == Source.of(Request("b", CHAT))
    assert hash(source) == hash(Source.of(Request("b", CHAT)))
    evidence = source.evidence.find("It opened in 1889.", 13, 17)
    assert evidence is not None
    assert evidence["text"] == "It was opened in 1889."
    assert source.grounding.measure("In 1890")["absent_numbers"] > 0


def test_a_prompt_of_system_messages_alone_has_no_passages():
    assert Source.of(Request("a", CHAT[:1])).passages == ()
    assert Source.of(Request("a", CHAT[:1])).evidence.find("It opened.", 0, 2) is None


@pytest.mark.parametrize("messages", [[], [{"role": "user"}]])
def test_messages_that_cannot_be_read_are_refused(messages: Any):
    with pytest.raises(InputError):
        Source.of(Request("a", messages))
