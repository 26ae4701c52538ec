"""A request of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from groundwire.server.protocol import Generation
from groundwire.server.wire import FirstError, Only, refusal


def _texts(prompt: Any) -> Any:
    """One prompt or several as a list; token ids are refused."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and any(isinstance(part, int | list) for part in prompt):
        raise refusal("unsupported_value", "token ids are not supported by this server: send the prompt as text")
    return prompt


Prompts = Annotated[
    list[str],
    FirstError(),
    Field(min_length=1),
    BeforeValidator(_texts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


class CompletionRequest(Generation):
    """A text completion. Each prompt is one user message, and counts as its passages."""

    prompt: Prompts
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: Annotated[Any, Only((1,), "ask for n answers and choose among them; leave it out")] = None
    echo: Annotated[Any, Only((False,), "the prompt is yours already; leave it out")] = None
    suffix: Annotated[Any, Only(("",), "the model cannot fill in the middle; leave it out")] = None

    @property
    def alternatives(self) -> int | None:
        return self.logprobs
