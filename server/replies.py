"""What the generating APIs answer, as the served OpenAPI describes it, chunks of streams included.

Replies are not made from these models; tests hold them to it. A field that is not always there has a default here.
"""

from __future__ import annotations

from typing import Any, Literal

from groundwire.server.judgement import Absent, Judgement, RunningScore, Sent

# The last two are an upstream's.
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "function_call"]


class Usage(Sent):
    """Tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Alternative(Sent):
    """A token with its natural log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(Alternative):
    """A token of the answer, and what else was likely in its place."""

    top_logprobs: list[Alternative]


class ChatLogprobs(Sent):
    """Log-probabilities of a chat answer."""

    content: list[ChatToken]
    refusal: str | None


class TextLogprobs(Sent):
    """Log-probabilities of a text completion."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class AssistantMessage(Sent):
    """The answer."""

    role: Literal["assistant"]
    content: str | None  # null where an upstream calls a tool
    refusal: str | None
    provider_specific_fields: dict[str, Any] | Absent = None


class ChatChoice(Sent):
    """One answer and its verdict, which is null where the request switched checking off."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    hallucination: Judgement | None


class Reply(Sent):
    """What every reply and every chunk says of itself. `created` is in Unix seconds."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None = None


class ChatCompletion(Reply):
    """The reply to a chat that is not streamed."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(Sent):
    """More of an answer."""

    role: Literal["assistant"] | Absent = None
    content: str | None = None
    refusal: str | None = None
    provider_specific_fields: dict[str, Any] | Absent = None


class ChatChunkChoice(Sent):
    """More of a choice. The verdict is where `finish_reason` is; before, the running score where it was asked for."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None
    hallucination: Judgement | RunningScore | None = None


class ChatCompletionChunk(Reply):
    """One event of a streamed chat."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class TextChoice(Sent):
    """One completion and its verdict, which is null where the request switched checking off."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    hallucination: Judgement | None
    provider_specific_fields: dict[str, Any] | Absent = None


class Completion(Reply):
    """The reply to a text completion that is not streamed."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class TextChunkChoice(Sent):
    """More of a completion. The verdict is where `finish_reason` is."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None
    hallucination: Judgement | RunningScore | None = None
    provider_specific_fields: dict[str, Any] | Absent = None


class CompletionChunk(Reply):
    """One event of a streamed text completion."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: Usage | None = None
