"""A JSON row becomes an example: the input format of batch scoring, and of everything else that reads rows.

A row has a `response`, an optional `id`, and one of three prompts. Where several are given, the first of these counts
(it is closest to what the model saw); a null counts as absent, and all other fields are ignored:

    {"id": 1, "messages": [{"role": "user", "content": "..."}], "response": "..."}   rendered by the chat template
    {"id": 1, "prompt": "...", "response": "..."}                                    one user message
    {"id": 1, "context": ["...", {"id": "a", "text": "..."}], "question": "...", "response": "..."}   or one string
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from groundwire.errors import InputError
from groundwire.prompts import grounded_messages
from groundwire.types import Example, Message, Passage


class NoPassages(InputError):
    """The row is well formed but its context or prompt is empty: nothing to be faithful to."""


def parse_row(row: Any, *, default_id: str | None = None) -> Example:
    """The example a row describes. `default_id` serves a row without an `id`; a whole number becomes a string.

    An empty `response` is kept (the detector answers not_checked, empty_response).
    Raises InputError where a field is missing or of the wrong type, NoPassages where context or prompt are blank.
    """
    if not isinstance(row, Mapping):
        raise InputError(
            f"the row is {_shown(row)}",
            expected='an object such as {"id": 1, "prompt": "...", "response": "..."}',
            remedy="write one JSON object per row",
        )
    name = row_id(row)
    if name is None and default_id is None:
        raise InputError("the row has no id", expected="a string or whole number", remedy='add "id" to the row')
    response = _text(row, "response", remedy='add the answer to be scored as "response"')
    messages, passages = _asked(row)
    return Example(str(default_id if name is None else name), messages, response, passages=passages)


def row_id(row: Mapping[str, Any]) -> str | int | None:
    """The row's id as given, None where it has none. Raises InputError where it is neither string nor whole number."""
    value = row.get("id")
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    return _text(row, "id", remedy="give every row a string or a whole number as its id, or none")


def _asked(row: Mapping[str, Any]) -> tuple[list[Message], list[Passage]]:
    """The messages, and the passages where the row gives them apart."""
    if row.get("messages") is not None:
        return _chat(row["messages"]), []
    if row.get("prompt") is not None:
        prompt = _text(row, "prompt", remedy="give the whole prompt, passages included, as one string")
        if not prompt.strip():
            raise _no_passages("prompt")
        return [{"role": "user", "content": prompt}], []
    if "context" in row:
        passages = _passages(row["context"])
        question = _text(row, "question", remedy='add the question that goes with "context"')
        if not any(passage.text.strip() for passage in passages):
            raise _no_passages("context")
        return grounded_messages(question, passages), passages
    raise InputError(
        "the row has no prompt",
        expected='"prompt", "messages", or "context" with "question"',
        remedy="add what the model was asked, passages included",
    )


def _chat(messages: Any) -> list[Message]:
    if not isinstance(messages, list) or not messages:
        raise InputError(
            f'"messages" is {_shown(messages)}',
            expected='a list such as [{"role": "user", "content": "..."}]',
            remedy="give at least one message",
        )
    return [_message(message, i) for i, message in enumerate(messages)]


def _message(message: Any, index: int) -> Message:
    remedy = "give every message a role and its content as one string"
    if not isinstance(message, Mapping):
        expected = '{"role": "user", "content": "..."}'
        raise InputError(f"message {index} is {_shown(message)}", expected=expected, remedy=remedy)
    return {
        "role": _text(message, "role", within=f"message {index}: ", remedy=remedy),
        "content": _text(message, "content", within=f"message {index}: ", remedy=remedy),
    }


def _passages(context: Any) -> list[Passage]:
    if context is None:
        return []
    if not isinstance(context, str | list):
        raise InputError(
            f'"context" is {_shown(context)}',
            expected='a string, or a list of strings and {"id": "...", "text": "..."} objects',
            remedy="wrap the passages in a list",
        )
    items = [context] if isinstance(context, str) else context
    return [_passage(item, i) for i, item in enumerate(items)]


def _passage(item: Any, index: int) -> Passage:
    fields = item if isinstance(item, Mapping) else {"text": item}
    text = _text(fields, "text", within=f"passage {index}: ", remedy='give it as "..." or {"id": "...", "text": "..."}')
    name = row_id(fields)
    return Passage(text=text, id=None if name is None else str(name))


def _text(fields: Mapping[str, Any], key: str, *, remedy: str, within: str = "") -> str:
    value = fields.get(key)
    if value is None:
        raise InputError(f'{within}"{key}" is missing', expected="a string", remedy=remedy)
    if not isinstance(value, str):
        raise InputError(f'{within}"{key}" is {_shown(value)}', expected="a string", remedy=remedy)
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair; no tokenizer or file can hold it
        raise InputError(
            f'{within}"{key}" holds half a surrogate pair',
            expected="text that can be encoded as UTF-8",
            remedy="replace the broken \\ud... escapes where the row is written",
        ) from None
    return value


def _no_passages(key: str) -> NoPassages:
    return NoPassages(
        f'"{key}" is empty', expected="the passages the response should stay with", remedy=f'fill "{key}"'
    )


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"
