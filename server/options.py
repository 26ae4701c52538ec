"""What a client may ask of the check: the `hallucination` object of a request."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from groundwire.server.policies import POLICIES as POLICIES
from groundwire.server.policies import PolicyName as PolicyName
from groundwire.server.wire import FirstError, Wire
from groundwire.types import Passage


class PassageObject(Wire):
    """A passage; `id` is the caller's own and is repeated in evidence."""

    text: str
    id: str | None = None


_GivenPassage = Annotated[
    PassageObject,
    BeforeValidator(lambda given: {"text": given} if isinstance(given, str) else given),
    WithJsonSchema({"anyOf": [{"type": "string"}, PassageObject.model_json_schema()]}),
]


class Options(Wire):
    """The `hallucination` object of a request; everything has a default."""

    enabled: bool = Field(default=True, description="false: no check, and the field is null in the response")
    passages: Annotated[list[_GivenPassage], FirstError()] | None = Field(
        default=None,
        max_length=1000,  # each is looked for in every message
        description="what the answer should stay with; else tool messages, else passages found in the user's text",
    )
    policy: PolicyName | None = Field(default=None, description="what to do with a flagged answer; else the operator's")
    threshold: float | None = Field(default=None, ge=0, le=1, description="score above which an answer is flagged")
    target: str | None = Field(
        default=None, max_length=100, description='or what it was chosen for: "balanced_accuracy", "fpr<=0.05"'
    )
    halt_threshold: float | None = Field(
        default=None, ge=0, le=1, description='policy "halt": running score above which an answer is stopped'
    )
    tokens: bool = Field(default=False, description="a score for each token, aligned with logprobs.content")
    running: bool = Field(default=False, description="the score so far on each content chunk of a stream")
    top_terms: int = Field(default=5, ge=0, le=100, description="how many terms to list")
    mirror: bool = Field(default=False, description="repeat the field in provider_specific_fields, which LiteLLM keeps")

    def given(self) -> tuple[Passage, ...] | None:
        """The caller's passages; None where the request names none."""
        return None if self.passages is None else tuple(Passage(p.text, p.id) for p in self.passages)
