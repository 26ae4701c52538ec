"""Logged OpenAI calls as rows: a request and its response, as a proxy logs them or as the batch API writes them.

{"request": {"messages": [...]}, "response": {"choices": [{"message": {"content": "..."}}]}}
{"custom_id": "1", "body": {"messages": [...]}, "response": {"status_code": 200, "body": {"choices": [...]}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from groundwire.errors import InputError

LOGGED = ("request", "body", "custom_id", "error")


def from_log(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row as prompt and response where it is a logged call, else the row itself. Its other fields stay.

    Raises InputError where the logged response failed, or holds not exactly one answer.
    """
    request = _object(row.get("request") if row.get("request") is not None else row.get("body"))
    reply = _object(row.get("response"))
    if not isinstance(request, Mapping) or not isinstance(reply, Mapping):
        return row
    request, answer = _body(request), _body(reply)
    name = next((value for value in (row.get("id"), row.get("custom_id"), answer.get("id")) if value is not None), None)
    found = {**row, "id": name, "response": _answer(answer, row)}
    if request.get("messages") is not None:
        found["messages"] = _chat(request["messages"])
    elif "prompt" in request:
        found["prompt"] = request["prompt"]
    return found


def _answer(reply: Mapping[str, Any], row: Mapping[str, Any]) -> Any:
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        failed = row.get("error") or reply.get("error")
        count = len(choices) if isinstance(choices, list) else "no"
        raise InputError(
            f"the logged call failed: {failed!r:.60}" if failed else f"the logged response has {count} choices",
            expected='"response" with exactly one choice',
            remedy="log one row per choice, and leave failed calls out",
        )
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        return choices[0].get("text")
    return _text("" if message.get("content") is None else message["content"])


def _chat(messages: Any) -> Any:
    """Messages with their contents as text; one that only calls a tool has none."""
    messages = _object(messages)
    if not isinstance(messages, list):
        return messages
    return [
        {**message, "content": _text("" if message.get("content") is None else message["content"])}
        if isinstance(message, Mapping)
        else message
        for message in messages
    ]


def _text(content: Any) -> Any:
    """The text of content in parts, where all of them are text; else the content as it is."""
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    return "".join(texts) if texts and len(texts) == len(parts) else content


def _body(call: Mapping[str, Any]) -> Mapping[str, Any]:
    body = _object(call.get("body"))
    return body if isinstance(body, Mapping) else call


def _object(value: Any) -> Any:
    """What a text that is JSON says, where it is an object or a list."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
