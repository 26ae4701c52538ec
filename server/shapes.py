"""Choices of an upstream's replies, of chat and of text completions: read, and written with other words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundwire.server.protocol_gateway import joined
from groundwire.server.render import FIELD, MIRROR
from groundwire.server.upstream import malformed

CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Said:
    """What an upstream said in a choice, or in one chunk of it. calls: whether it calls a tool."""

    index: int
    text: str
    calls: bool = False
    finish_reason: str | None = None


class Shape(ABC):
    """How one API writes a choice."""

    path: str
    chunk_object: str

    @abstractmethod
    def said(self, choice: Mapping[str, Any], place: int = 0) -> Said:
        """What a choice says; without an index of its own it has that of its place. Raises ApiError."""

    @abstractmethod
    def reworded(self, choice: Mapping[str, Any], text: str) -> dict[str, Any]:
        """A choice that says `text`, and nothing else of what the upstream said."""

    @abstractmethod
    def chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """All of a choice as that of one chunk of a stream, which does not end it."""

    @abstractmethod
    def last(self, index: int) -> dict[str, Any]:
        """The choice of a chunk that ends it, but for why it ends."""

    @abstractmethod
    def mirrored(self, choice: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        """A choice with the field once more where LiteLLM keeps it."""

    def with_field(self, choice: Mapping[str, Any], value: Any, *, mirror: bool) -> dict[str, Any]:
        """A choice with its `hallucination`."""
        found = {**choice, FIELD: value}
        return self.mirrored(found, {FIELD: value}) if mirror else found


class ChatShape(Shape):
    """`/v1/chat/completions`."""

    path = "chat/completions"
    chunk_object = "chat.completion.chunk"

    def said(self, choice: Mapping[str, Any], place: int = 0) -> Said:
        message, reason = _message(choice), _reason(choice)
        calls = any(message.get(name) for name in CALLS) or reason in CALLS
        return Said(_index(choice, place), joined(message.get("content")), calls, reason)

    def reworded(self, choice: Mapping[str, Any], text: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": choice.get("index", 0), "message": message, "logprobs": None}

    def chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        delta = dict(_message(choice))
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [{**_mapping(call), "index": i} for i, call in enumerate(calls)]
        rest = {name: value for name, value in choice.items() if name not in ("message", FIELD)}
        return {**rest, "delta": delta, "finish_reason": None}

    def last(self, index: int) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}

    def mirrored(self, choice: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        name = "delta" if "delta" in choice else "message"
        return {**choice, name: _mirrored(_message(choice), value)}


class TextShape(Shape):
    """`/v1/completions`."""

    path = "completions"
    chunk_object = "text_completion"

    def said(self, choice: Mapping[str, Any], place: int = 0) -> Said:
        return Said(_index(choice, place), joined(choice.get("text")), False, _reason(choice))

    def reworded(self, choice: Mapping[str, Any], text: str) -> dict[str, Any]:
        return {"index": choice.get("index", 0), "text": text, "logprobs": None}

    def chunk(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {**{name: value for name, value in choice.items() if name != FIELD}, "finish_reason": None}

    def last(self, index: int) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": None}

    def mirrored(self, choice: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
        return _mirrored(choice, value)


def choices_of(reply: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The choices of a reply or a chunk. Raises ApiError where they are no such thing."""
    found = reply.get("choices")
    if not isinstance(found, list):
        raise malformed("it has no choices")
    return [_mapping(choice) for choice in found]


def _message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a chat's choice, or of a chunk's, that holds the answer."""
    return _mapping(choice.get("delta" if "delta" in choice else "message") or {})


def _mirrored(part: Mapping[str, Any], value: Mapping[str, Any]) -> dict[str, Any]:
    before = part.get(MIRROR)
    return {**part, MIRROR: {**(before if isinstance(before, dict) else {}), **value}}


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise malformed("a choice is not as OpenAI writes it")
    return value


def _index(choice: Mapping[str, Any], place: int) -> int:
    index = choice.get("index", place)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise malformed("a choice has no number")
    return index


def _reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason else None
