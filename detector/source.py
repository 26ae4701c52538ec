"""What an answer is compared with: its prompt's text, and the passages in it. Indexes are built when first used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from groundwire.binding import Binding
from groundwire.evidence import EvidenceIndex
from groundwire.grounding import Grounding
from groundwire.prompts import prompt_text
from groundwire.sentences import words
from groundwire.types import Example, Message, Passage, Request


@dataclass(frozen=True)
class Source:
    """The texts behind an answer; equal ones may share their indexes.

    prompt: contents of all messages, joined by blank lines. passages: where evidence for spans is looked for.
    """

    prompt: str
    passages: tuple[Passage, ...]

    @classmethod
    def of(cls, asked: Example | Request) -> Source:
        """The caller's own passages or, where none are given, every message but the system's and the assistant's.

        Raises InputError on messages without a role and a string content, and on none.
        """
        prompt = prompt_text(asked.messages)
        return cls(prompt, tuple(asked.passages) or _of_messages(asked.messages))

    @cached_property
    def grounding(self) -> Grounding:
        return Grounding(self.prompt)

    @cached_property
    def evidence(self) -> EvidenceIndex:
        return EvidenceIndex(self.passages)

    @cached_property
    def words(self) -> frozenset[str]:
        """Of the prompt, reduced."""
        return frozenset(words(self.prompt))

    @cached_property
    def binding(self) -> Binding:
        return Binding(self.evidence, self.prompt)


def _of_messages(messages: Sequence[Message]) -> tuple[Passage, ...]:
    return tuple(Passage(m["content"]) for m in messages if m["role"] not in ("system", "assistant"))
