"""A verdict on the wire, as the served OpenAPI describes it: the `hallucination` object of every choice and row.

It is made by `Verdict.to_dict` and `render.field`, not from these models; tests hold them to it. A field that is not
always there has a default here, and is never null.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from groundwire.server.policies import PolicyName
from groundwire.types import Kind, Reason

Status = Literal["checked", "not_checked"]
Absent = SkipJsonSchema[None]


def _without_null_defaults(schema: dict[str, Any]) -> None:
    for field in schema.get("properties", {}).values():
        if field.get("default", "") is None:
            del field["default"]


class Sent(BaseModel):
    """Base of everything that describes a reply."""

    model_config = ConfigDict(json_schema_extra=_without_null_defaults)


class Place(Sent):
    """Where something stands, in code points."""

    start: int
    end: int


class Evidence(Place):
    """The passage text to compare a span with; places count in that passage's text."""

    passage_id: str | None
    text: str
    similarity: float


class Unsupported(Place):
    """A part of the answer that the passages do not support."""

    text: str
    score: float
    evidence: Evidence | None
    reason: str | None = Field(description="what differs from the passages, in one sentence")
    redacted: Place | Absent = Field(None, description='policy "redact": where what stands in for it is in the reply')


class ScoredTerm(Sent):
    """What raised (above zero) or lowered the score, and the token where it did so most."""

    kind: Kind
    name: str
    feature_id: int | None
    contribution: float
    token: str | None
    start: int | None


class ScoredToken(Place):
    """A token of the answer: the chance that it is part of what is not supported."""

    token: str
    score: float


class ScoredSentence(Place):
    """A sentence of the answer: the chance that it is not supported. The worst one is the answer's."""

    text: str
    score: float
    reason: str | None = Field(description="what would be wrong with it, in one sentence; null where the score is low")


class Unlike(Sent):
    """How far the answer is from the detector's training data."""

    distance: float
    quantile: float
    flag: bool


class DetectorName(Sent):
    """Which detector judged."""

    id: str
    version: str
    model: str
    hookpoint: str
    same_model: bool
    reading: Literal["own", "checking"] = Field(
        description='"own": the model\'s own pass; "checking": a second pass over the answer, with an adapter'
    )


class AttemptSummary(Sent):
    """Policy "regenerate": one of two answers; `kept` is the one that was sent."""

    text: str
    kept: bool
    status: Status
    reason: Reason | None
    score: float | None
    flagged: bool | None
    detail: str | Absent = None


class Judgement(Sent):
    """Whether an answer stays with its passages. With status "not_checked", `reason` says why and there is no score."""

    status: Status
    reason: Reason | None
    detail: str | Absent = None
    score: float | None = Field(ge=0, le=1, description="calibrated probability that the answer is not supported")
    flagged: bool | None = Field(description="whether the score is above the threshold")
    threshold: float
    action: PolicyName = Field(description='what was done with the answer; "annotate": nothing')
    explanation: str | None = Field(description="what is wrong, in a sentence or two, where the answer is flagged")
    logit: float | None = Field(description="intercept, contributions of all terms and `other`, summed")
    intercept: float | None
    other: float | None = Field(description="contributions of the terms that are not listed")
    shares: dict[Kind, float] | None = Field(description="contributions by kind of term")
    unlike_training: Unlike | None
    detector: DetectorName | None
    spans: list[Unsupported] = Field(description="places count in the answer as the model gave it")
    sentences: list[ScoredSentence] = Field(description="where the detector reads sentences; else none")
    terms: list[ScoredTerm]
    tokens: list[ScoredToken] | None
    attempts: list[AttemptSummary] | Absent = None


class RunningScore(Sent):
    """The score of an answer so far."""

    status: Literal["running"]
    score: float
