"""A request of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from groundwire.server.protocol import Generation
from groundwire.server.wire import FirstError, Only, Wire, refusal

_PARTS = [
    {"type": "object", "properties": {"type": {"const": kind}, kind: {"type": "string"}}, "required": ["type", kind]}
    for kind in ("text", "refusal")
]
_NO_TOOLS = "the model calls no tools; leave it out, and put what tools returned into tool messages"


def _joined(content: Any) -> Any:
    """Text parts as one text; parts that are no text are refused by name."""
    if not isinstance(content, list):
        return content
    if not content:
        raise refusal("content_part", "content is a text, or a list of at least one part")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else None
        if isinstance(kind, str) and kind not in ("text", "refusal"):
            raise refusal("unsupported_value", f"content of type {kind:.40} is not supported: send text only")
        if not isinstance(text, str):
            raise refusal("content_part", 'each content part is an object like {"type": "text", "text": "..."}')
        texts.append(text)
    return "\n".join(texts)


Content = Annotated[
    str,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"anyOf": _PARTS}, "minItems": 1}]}),
]


class FunctionCall(Wire):
    """A function an earlier answer called."""

    name: str
    arguments: str


class ToolCall(Wire):
    """A tool an earlier answer called."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None


class ChatMessage(Wire):
    """One message. What this server adds to its answers may come back with them, and is not looked at."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: Annotated[list[ToolCall], FirstError()] | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    audio: Annotated[Any, Only((), "send the transcript as text")] = None
    annotations: list[Any] | None = None
    hallucination: dict[str, Any] | None = None
    provider_specific_fields: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> ChatMessage:
        if self.content is None and not (self.role == "assistant" and self.text):
            raise refusal("content", f"a {self.role} message needs its content as text")
        return self

    @property
    def text(self) -> str:
        """Content, refusal and calls as the model will read them."""
        calls = [call.function for call in self.tool_calls or ()] + ([self.function_call] if self.function_call else [])
        parts = [self.content, self.refusal, *(f"{call.name}({call.arguments})" for call in calls)]
        return "\n".join(part for part in parts if part)


class ChatRequest(Generation):
    """A chat completion."""

    messages: Annotated[list[ChatMessage], FirstError()] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Annotated[Any, Only(([],), _NO_TOOLS)] = None
    tool_choice: Annotated[Any, Only(("none", "auto"), _NO_TOOLS)] = None
    parallel_tool_calls: Annotated[Any, Only((True, False), _NO_TOOLS)] = None
    functions: Annotated[Any, Only(([],), _NO_TOOLS)] = None
    function_call: Annotated[Any, Only(("none", "auto"), _NO_TOOLS)] = None
    response_format: Annotated[Any, Only(({"type": "text"},), "answers are plain text; leave it out")] = None
    modalities: Annotated[Any, Only((["text"],), "answers are plain text; leave it out")] = None
    audio: Annotated[Any, Only((), "answers are plain text; leave it out")] = None
    prediction: Annotated[Any, Only((), "nothing is predicted; leave it out")] = None
    web_search_options: Annotated[Any, Only((), "the model does not search; leave it out")] = None
    moderation: Annotated[Any, Only((), "answers are not moderated; leave it out")] = None
    reasoning_effort: Annotated[Any, Only(("none",), "the model does not reason apart; leave it out")] = None
    verbosity: Annotated[Any, Only(("medium",), "ask for a short or long answer in the messages")] = None
    service_tier: Annotated[Any, Only(("auto", "default"), "there is one tier; leave it out")] = None
    # Without effect on the answer at OpenAI, and here.
    metadata: Annotated[dict[str, str], FirstError()] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: dict[str, Any] | None = None

    @field_validator("max_completion_tokens")
    @classmethod
    def _one_limit(cls, limit: int | None, info: Any) -> int | None:
        if limit is not None and info.data.get("max_tokens") not in (None, limit):
            raise refusal("two_limits", "max_tokens and max_completion_tokens differ: send one of them")
        return limit

    @field_validator("top_logprobs")
    @classmethod
    def _needs_logprobs(cls, count: int | None, info: Any) -> int | None:
        if count is not None and not info.data.get("logprobs"):
            raise refusal("top_logprobs", "only allowed with logprobs: set logprobs to true, or leave it out")
        return count

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def conversation(self) -> list[dict[str, str]]:
        """The messages as roles and texts; a developer's are the system's, a function's those of a tool."""
        roles = {"developer": "system", "function": "tool"}
        calls = [{"tool_call_id": m.tool_call_id} if m.tool_call_id else {} for m in self.messages]
        return [
            {"role": roles.get(m.role, m.role), "content": m.text, **call}
            for m, call in zip(self.messages, calls, strict=True)
        ]
