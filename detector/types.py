"""The words every folder speaks. Frozen dataclasses without behaviour, except for how a verdict is written as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

if TYPE_CHECKING:
    from torch import Tensor


FinishReason = Literal["stop", "length"]
Reading = Literal["own", "checking"]  # who gives a verdict: the model's own pass, or a second one with an adapter


class Message(TypedDict):
    """One chat message, as OpenAI writes it."""

    role: str
    content: str


@dataclass(frozen=True)
class Passage:
    """A retrieved text the answer should stay with. `id` is the caller's own, repeated in evidence."""

    text: str
    id: str | None = None


@dataclass(frozen=True)
class Sampling:
    """How to generate. temperature 0 is greedy; `stop` strings end the answer and are not part of it.

    logprobs: alternatives per token whose log-probabilities are wanted besides its own; None for none at all.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class Request:
    """Something to generate: messages, passages included, rendered by `prompts` alone.

    passages: where evidence for spans is looked for; none for every message but the system's and the assistant's.
    check: whether to score the answer; False only generates. running: whether steps tell the score so far, which costs
        a little for every token.
    """

    id: str
    messages: Sequence[Message]
    sampling: Sampling = field(default_factory=Sampling)
    passages: Sequence[Passage] = field(default=(), kw_only=True)
    check: bool = field(default=True, kw_only=True)
    running: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class Example:
    """An answer that already exists, to be scored: what was asked (passages included) and what was answered.

    passages: as in `Request`.
    """

    id: str
    messages: Sequence[Message]
    response: str
    passages: Sequence[Passage] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Token:
    """A response token: its id and the code points `[start, end)` of the response text it covers."""

    id: int
    start: int
    end: int


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log-probability of a token as the model gave it, and the likeliest tokens in its place with theirs."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Step:
    """One step of generation.

    text, tokens: what became visible in this step, often one token; none while a character or a possible stop string is
        incomplete; several when it resolves.
    features: `[rows, terms]`, float32: chosen latents of visible tokens that were *inputs* of this forward pass. The
        token sampled in a step has its row in the next one.
    logit: the running response logit after those rows; None before the first row, and where the request wants none.
    finish_reason: "stop" or "length" on the last step, else None.
    readout: on the last step, what scoring folded together; None before, and where the request is not to be checked.
    logprobs: one for each of `tokens` where the request asks for them, else none.
    prompt: on the last step of an answer that is to be checked, what the engine has of its prompt, for `Asked.known`;
        good until the next step. None where it keeps nothing.
    """

    text: str
    tokens: tuple[Token, ...]
    features: Tensor
    logit: float | None = None
    finish_reason: FinishReason | None = None
    readout: Readout | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Readout:
    """What scoring hands back for one response: everything a verdict needs, and nothing of the vocabulary's size.

    rows: number of response tokens folded.
    logit: the response logit; equals `intercept + sum(contributions)`.
    contributions: `[terms]` log-odds per term; by sentence, terms of its text stand behind the encoder's.
    peaks: `[terms]` row in which each term counted most, -1 where none: that of its maximum (pooling "max"), or the one
        of the best window that pulled furthest in the direction of its contribution (pooling "window").
    token_logits: `[rows]` log-odds that each token lies in an unfaithful span, by the same additive model.
    mean_features: `[terms]` mean of the encoder's features over the rows, float64; zeros without rows.
    finite: whether every activation was finite; where not, the numbers above mean nothing.
    features: `[rows, terms]` float32, the encoder's features themselves, where they were asked for.
    sentences: log-odds of each sentence, where the response was read by its sentences; the worst is `logit`.
    forward_seconds, check_seconds: this response's share of the time spent in the model, and in encoding and folding.
    """

    rows: int
    logit: float
    contributions: Tensor
    peaks: Tensor
    token_logits: Tensor
    mean_features: Tensor
    finite: bool = True
    forward_seconds: float = 0.0
    check_seconds: float = 0.0
    features: Tensor | None = None
    sentences: Tensor | None = None


Kind = Literal[
    "latent",  # of a sparse autoencoder, by token
    "grounding",  # of the texts alone, by response or by sentence
    "residual",  # a direction of the residual stream, by token
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Term:
    """One named input of the additive model. `feature_id` is the latent's index in its dictionary."""

    kind: Kind
    name: str
    feature_id: int | None = None


@dataclass(frozen=True)
class Contribution:
    """What one term added to the logit (log-odds), and the token at which it peaked; None where it has no place."""

    term: Term
    contribution: float
    token: str | None = None
    start: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.term.kind,
            "name": self.term.name,
            "feature_id": self.term.feature_id,
            "contribution": self.contribution,
            "token": self.token,
            "start": self.start,
        }


@dataclass(frozen=True)
class Span:
    """Unfaithful code points `[start, end)` of the response. `evidence` is the nearest passage text, or None. `reason`
    says in one sentence what differs from the passages, or is None where there are none."""

    start: int
    end: int
    text: str
    score: float
    evidence: Mapping[str, Any] | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**_place(self), "evidence": self.evidence, "reason": self.reason}


@dataclass(frozen=True)
class SentenceScore:
    """Score of the sentence at code points `[start, end)` of the response: the chance that it is unfaithful. `reason`
    says what would be wrong with it, if it is."""

    start: int
    end: int
    text: str
    score: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**_place(self), "reason": self.reason}


def _place(part: Span | SentenceScore) -> dict[str, Any]:
    return {"start": part.start, "end": part.end, "text": part.text, "score": part.score}


@dataclass(frozen=True)
class TokenScore:
    """Score of one response token: the chance that it lies in an unfaithful span."""

    token: str
    start: int
    end: int
    score: float

    def to_dict(self) -> dict[str, Any]:
        return {"token": self.token, "start": self.start, "end": self.end, "score": self.score}


Reason = Literal[
    "no_passages",  # nothing to be faithful to
    "tool_call",  # the reply calls a tool and claims nothing
    "abstained",  # "the passages do not say" is not a claim
    "empty_response",  # no visible token
    "prompt_too_long",  # prompt and response exceed the reader's context
    "model_mismatch",  # the artifact belongs to another model
    "capture_failed",  # the forward pass gave no, or not finite, activations
    "invalid_input",  # the row could not be read
    "disabled",  # checking was switched off
]


@dataclass(frozen=True)
class Detection:
    """What the detector found in one response. `score` is the calibrated probability that it is *unfaithful*.

    `sigmoid(intercept + sum(c.contribution for c in contributions)) == score`; `contributions` are sorted by size.
    `unlike_training` holds how far the answer lies from the training data (`distance`, its `quantile` among theirs, and
    whether to `flag` it), or None where the detector does not know.
    `passage_windows` counts the windows in which passages beyond the model's context were read; None where they fit.
    `sentences` holds the score of each sentence, the worst of which is the answer's, where the detector reads them.
    `features` `[tokens, terms]` are the activations behind the terms of the model, where they were asked for.
    With `status` "not_checked", `reason` says why and every number is None: never a clean bill by default.
    """

    status: Literal["checked", "not_checked"]
    reason: Reason | None = None
    score: float | None = None
    logit: float | None = None
    intercept: float | None = None
    contributions: tuple[Contribution, ...] = field(default=(), repr=False)
    spans: tuple[Span, ...] = ()
    tokens: tuple[TokenScore, ...] = field(default=(), repr=False)
    sentences: tuple[SentenceScore, ...] = ()
    unlike_training: Mapping[str, Any] | None = None
    detector: Mapping[str, Any] | None = None
    detail: str | None = None
    passage_windows: int | None = None
    features: Tensor | None = field(default=None, repr=False, compare=False)
    forward_seconds: float = 0.0
    check_seconds: float = 0.0

    @property
    def checked(self) -> bool:
        return self.status == "checked"

    @property
    def shares(self) -> dict[str, float] | None:
        """Contributions of all terms, summed by their kind; None where nothing was checked."""
        if not self.checked:
            return None
        sums: dict[str, float] = dict.fromkeys(KINDS, 0.0)
        for c in self.contributions:
            sums[c.term.kind] += c.contribution
        return sums


@dataclass(frozen=True)
class Verdict:
    """A detection, decided: compared with the threshold, with the action the policy took."""

    detection: Detection
    threshold: float | None
    flagged: bool | None
    action: str
    text: str | None = None

    @property
    def status(self) -> str:
        return self.detection.status

    @property
    def score(self) -> float | None:
        return self.detection.score

    @property
    def spans(self) -> tuple[Span, ...]:
        return self.detection.spans

    @property
    def explanation(self) -> str | None:
        """What is wrong, in a sentence or two; None where the answer is not flagged."""
        if not self.flagged or self.threshold is None:
            return None
        sentences, spans = self.detection.sentences, self.detection.spans
        parts: Sequence[SentenceScore | Span] = sentences or spans
        reason = max(parts, key=lambda part: part.score).reason if parts else None
        wrong = sum(sentence.score > self.threshold for sentence in sentences)
        are = "is" if wrong == 1 else "are"
        count = f"{wrong} of {len(sentences)} statements {are} not supported." if wrong else ""
        said = " ".join(part for part in (count if len(sentences) > 1 else "", reason) if part)
        return said or "The answer as a whole is not what the passages say."

    def __str__(self) -> str:
        """One line for a log or a terminal."""
        if self.score is None:
            return f"not checked: {self.detection.reason}"
        said = f"score {self.score:.2f}, threshold {self.threshold:.2f}" if self.threshold is not None else ""
        return f"unfaithful ({said}): {self.explanation}" if self.flagged else f"faithful ({said})"

    def to_dict(self, *, top_terms: int = 5, tokens: bool = False) -> dict[str, Any]:
        """The `hallucination` object of a response. `other` sums the contributions that are not listed."""
        d = self.detection
        shown, rest = d.contributions[:top_terms], d.contributions[top_terms:]
        return {
            "status": d.status,
            "reason": d.reason,
            **({"detail": d.detail} if d.detail else {}),
            **({"passage_windows": d.passage_windows} if d.passage_windows else {}),
            "score": d.score,
            "flagged": self.flagged,
            "threshold": self.threshold,
            "action": self.action,
            "explanation": self.explanation,
            "logit": d.logit,
            "intercept": d.intercept,
            "other": sum(c.contribution for c in rest) if d.checked else None,
            "shares": d.shares,
            "unlike_training": dict(d.unlike_training) if d.unlike_training else None,
            "detector": dict(d.detector) if d.detector else None,
            "spans": [span.to_dict() for span in d.spans],
            "sentences": [sentence.to_dict() for sentence in d.sentences],
            "terms": [c.to_dict() for c in shown],
            "tokens": [t.to_dict() for t in d.tokens] if tokens and d.checked else None,
        }
