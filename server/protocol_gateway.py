"""Requests as a gateway reads them: what it needs is typed, all else is passed on as it came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from groundwire.server.errors import ApiError
from groundwire.server.options import Options
from groundwire.server.protocol_completion import Prompts
from groundwire.server.wire import FirstError, Only
from groundwire.types import Message

ROLES = {"developer": "system", "function": "tool"}
OWN = "hallucination"  # the one field that is not the upstream's
MIRROR = "provider_specific_fields"


class Forwarded(BaseModel):
    """What chat and text completions share."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, str_min_length=0)

    model: str
    n: int | None = Field(None, ge=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    hallucination: Options | None = None

    @property
    def options(self) -> Options:
        return self.hallucination or Options()

    @property
    def choices(self) -> int:
        """How many answers to each prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool((self.stream_options or {}).get("include_usage"))


class ForwardedChat(Forwarded):
    """A chat completion: tools, formats, images and what else the upstream understands."""

    messages: Annotated[list[dict[str, Any]], FirstError()] = Field(min_length=1)


class ForwardedText(Forwarded):
    """A text completion."""

    prompt: Prompts
    echo: Annotated[Any, Only((False,), "a repeated prompt cannot be told from the answer; leave it out")] = None


def outgoing(given: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The body for the upstream: `given` less what is ours, with `changes`; None leaves a field out."""
    body = {name: value for name, value in {**given, **changes}.items() if name != OWN}
    return {name: value for name, value in body.items() if value is not None or name not in changes}


def encoded(body: Mapping[str, Any]) -> bytes:
    """A body as JSON. Raises ApiError on what JSON in UTF-8 cannot hold."""
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):  # UnicodeEncodeError, a half surrogate pair, is a ValueError
        raise ApiError(400, "The body of the request holds what JSON in UTF-8 cannot.", code="invalid_json") from None


def without_ours(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message that may be an answer of ours sent back, without what we added to it."""
    kept = {name: value for name, value in message.items() if name not in (OWN, MIRROR)}
    mirror = message.get(MIRROR)
    if isinstance(mirror, dict):
        mirror = {name: value for name, value in mirror.items() if name != OWN}
    return {**kept, MIRROR: mirror} if mirror else kept


def readable(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The messages as the reader sees them: roles and texts. It sees no images and hears nothing."""
    calls = [m.get("tool_call_id") for m in messages]
    return [
        {
            "role": ROLES.get(role, role) if isinstance(role := message.get("role"), str) else "user",
            "content": _text(message),
            **({"tool_call_id": call} if isinstance(call, str) else {}),
        }
        for message, call in zip(messages, calls, strict=True)
    ]


def with_passages(
    messages: Sequence[Mapping[str, Any]], read: Sequence[Mapping[str, str]], wanted: Sequence[Message]
) -> list[Mapping[str, Any]]:
    """`messages`, of which `read` is the readable form, so that they say what `wanted` says."""
    kept = [
        message if was["content"] == new["content"] else {**message, "content": _reworded(message, new["content"])}
        for message, was, new in zip(messages, read, wanted, strict=False)
    ]
    return [*kept, *wanted[len(kept) :]]


def joined(content: Any) -> str:
    """The text of a content: itself, or that of its parts."""
    if isinstance(content, list):
        return "\n".join(text for part in content if (text := _part(part)) is not None)
    return content if isinstance(content, str) else ""


def _text(message: Mapping[str, Any]) -> str:
    """Content, refusal and calls, as `ChatMessage.text`."""
    parts = [joined(message.get("content")), message.get("refusal")]
    made = message.get("tool_calls")
    functions = [call.get("function") for call in made if isinstance(call, dict)] if isinstance(made, list) else []
    for function in [*functions, message.get("function_call")]:
        if isinstance(function, dict):
            parts.append(f"{function.get('name')}({function.get('arguments')})")
    return "\n".join(part for part in parts if isinstance(part, str) and part)


def _part(part: Any) -> str | None:
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
    return text if isinstance(text, str) else None


def _reworded(message: Mapping[str, Any], text: str) -> Any:
    content = message.get("content")
    if not isinstance(content, list):
        return text
    return [{"type": "text", "text": text}, *(part for part in content if _part(part) is None)]
