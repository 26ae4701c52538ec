"""Events of an answer as OpenAI's JSON objects, of chat and of text completions. Pure."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groundwire.server.events import Begun, Delta, Done, Event, Piece, Usage
from groundwire.server.logprobs import chat_logprobs, text_logprobs
from groundwire.types import Verdict

FIELD = "hallucination"
MIRROR = "provider_specific_fields"  # the one place where LiteLLM keeps what it does not know
END = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Show:
    """What of a verdict the client asked to see."""

    top_terms: int = 5
    tokens: bool = False
    running: bool = False
    mirror: bool = False
    usage: bool = False  # on every chunk of a stream


@dataclass(frozen=True)
class Renderer(ABC):
    """How one API writes a response. `spell` gives the text of a token id; `created` is in Unix seconds."""

    id: str
    model: str
    created: int
    fingerprint: str
    show: Show
    spell: Callable[[int], str]

    @property
    @abstractmethod
    def object(self) -> str:
        """OpenAI's name of the response; a chunk's is `chunk_object`."""

    @property
    @abstractmethod
    def chunk_object(self) -> str: ...

    @property
    @abstractmethod
    def operation(self) -> str:
        """OpenTelemetry's name of what is done."""

    @abstractmethod
    def whole_choice(self, done: Done) -> dict[str, Any]:
        """A choice of a response that is not streamed, less index and finish reason."""

    @abstractmethod
    def choice_chunks(self, event: Event) -> list[dict[str, Any]]:
        """The choices of the chunks that say what happened, each as it stands in a chunk."""

    def whole(self, choices: Sequence[Done], usage: Usage) -> dict[str, Any]:
        """The response to a request that is not streamed; `choices` in order."""
        ends = [{"index": d.index, "finish_reason": d.finish_reason, FIELD: field(d, self.show)} for d in choices]
        listed = [self.whole_choice(done) | end for done, end in zip(choices, ends, strict=True)]
        return self._envelope(self.object) | {"choices": listed, "usage": usage.to_dict()}

    def chunks(self, event: Event) -> list[dict[str, Any]]:
        """The chunks of a stream for one event."""
        nothing = {"usage": None} if self.show.usage else {}
        return [self._envelope(self.chunk_object) | {"choices": [c]} | nothing for c in self.choice_chunks(event)]

    def usage_chunk(self, usage: Usage) -> dict[str, Any]:
        """The last chunk, where usage was asked for."""
        return self._envelope(self.chunk_object) | {"choices": [], "usage": usage.to_dict()}

    def running(self, delta: Delta) -> dict[str, Any]:
        """The score so far as a content chunk carries it, where it was asked for and there is one."""
        if not self.show.running or delta.running is None:
            return {}
        return {FIELD: running_field(delta.running)}

    def mirrored(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """The field once more, where the client asked for that."""
        return {MIRROR: dict(value)} if self.show.mirror and value else {}

    def _envelope(self, name: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": name,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


class ChatRenderer(Renderer):
    """`/v1/chat/completions`."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    operation = "chat"

    def whole_choice(self, done: Done) -> dict[str, Any]:
        message = {"role": "assistant", "content": done.text, "refusal": None}
        message |= self.mirrored({FIELD: field(done, self.show)})
        return {"message": message, "logprobs": self._logprobs(done.logprobs)}

    def choice_chunks(self, event: Event) -> list[dict[str, Any]]:
        if isinstance(event, Begun):
            return [self._choice(event.index, {"role": "assistant", "content": "", "refusal": None})]
        if isinstance(event, Delta):
            running = self.running(event)
            delta = {"content": event.text} | self.mirrored(running)
            logprobs = self._logprobs(event.logprobs)
            return [self._choice(event.index, delta, logprobs=logprobs) | running]
        verdict = {FIELD: field(event, self.show)}
        return [self._choice(event.index, self.mirrored(verdict), finish_reason=event.finish_reason) | verdict]

    def _choice(
        self, index: int, delta: dict[str, Any], *, logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        return chat_logprobs(pieces, self.spell) if pieces else None


class TextRenderer(Renderer):
    """`/v1/completions`."""

    object = "text_completion"
    chunk_object = "text_completion"
    operation = "text_completion"

    def whole_choice(self, done: Done) -> dict[str, Any]:
        logprobs = self._logprobs(done.logprobs)
        return {"text": done.text, "logprobs": logprobs} | self.mirrored({FIELD: field(done, self.show)})

    def choice_chunks(self, event: Event) -> list[dict[str, Any]]:
        if isinstance(event, Begun):
            return []
        if isinstance(event, Delta):
            running = self.running(event)
            logprobs = self._logprobs(event.logprobs)
            choice = {"index": event.index, "text": event.text, "logprobs": logprobs, "finish_reason": None}
            return [choice | running | self.mirrored(running)]
        verdict = {FIELD: field(event, self.show)}
        choice = {"index": event.index, "text": "", "logprobs": None, "finish_reason": event.finish_reason}
        return [choice | verdict | self.mirrored(verdict)]

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        return text_logprobs(pieces, self.spell) if pieces else None


def field(done: Done, show: Show) -> dict[str, Any] | None:
    """The `hallucination` object of a choice; None where checking is off.

    Offsets of spans count in the model's answer; where spans were replaced, `redacted` says where in the text returned.
    """
    if done.verdict is None:
        return None
    found = done.verdict.to_dict(top_terms=show.top_terms, tokens=show.tokens)
    if done.redactions is not None:
        for span, (start, end) in zip(found["spans"], done.redactions, strict=True):
            span["redacted"] = {"start": start, "end": end}
    if done.attempts:
        found["attempts"] = [
            {"text": attempt.text, "kept": attempt.kept, **_summary(attempt.verdict)} for attempt in done.attempts
        ]
    return found


def running_field(score: float) -> dict[str, Any]:
    """The `hallucination` object of a content chunk: the score so far."""
    return {"status": "running", "score": score}


def headers(choices: Sequence[Done]) -> dict[str, str]:
    """The verdicts of a response that is not streamed, for clients that keep nothing of the body but what they know.

    One value per choice; a header that would say nothing of any is left out.
    """
    verdicts = [done.verdict for done in choices]
    columns: dict[str, list[Any]] = {
        "status": [v.status if v else "disabled" for v in verdicts],
        "score": [v.score if v else None for v in verdicts],
        "flagged": [v.flagged if v else None for v in verdicts],
        "threshold": [v.threshold if v else None for v in verdicts],
        "reason": [v.detection.reason if v else None for v in verdicts],
    }
    return {
        f"x-groundwire-{name}": ", ".join(value if isinstance(value, str) else json.dumps(value) for value in values)
        for name, values in columns.items()
        if any(value is not None for value in values)
    }


def sse(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _summary(verdict: Verdict) -> dict[str, Any]:
    detection = verdict.detection
    return {
        "status": detection.status,
        "reason": detection.reason,
        "score": detection.score,
        "flagged": verdict.flagged,
        **({"detail": detection.detail} if detection.detail else {}),
    }
