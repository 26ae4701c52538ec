"""What is done with an answer and its verdict. Pure: texts and detections in, what goes out of it.

annotate: the verdict beside the answer. redact: unsupported spans replaced. block: a flagged answer replaced.
regenerate: a flagged answer asked for again, the better one kept. halt: an answer stopped where the score so far is too
high. hold: nothing sent before the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from groundwire.guard import decide
from groundwire.types import Detection, Message, Reason, Span, Verdict

PolicyName = Literal["annotate", "redact", "block", "regenerate", "halt", "hold"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
HELD: frozenset[PolicyName] = frozenset({"redact", "block", "regenerate", "hold"})

# The check broke, unlike answers for which there was nothing to check.
FAILURES: frozenset[Reason] = frozenset({"capture_failed", "prompt_too_long", "model_mismatch", "invalid_input"})

FinishReason = Literal["stop", "length", "content_filter"]


@dataclass(frozen=True)
class Rules:
    """What is to happen to an answer, operator and request taken together.

    threshold: score above which it is flagged. halt_threshold: running score above which "halt" stops it.
    fail_closed: whether an answer whose check failed is blocked. redaction, block_message: what stands in for a span,
    and for a whole answer.
    """

    policy: PolicyName
    threshold: float
    halt_threshold: float
    fail_closed: bool
    redaction: str
    block_message: str

    @property
    def held(self) -> bool:
        """Whether nothing of an answer may be sent before its verdict."""
        return self.policy in HELD or self.fail_closed

    def halts(self, running: float | None) -> bool:
        """Whether an answer with this running score is to be stopped."""
        return self.policy == "halt" and running is not None and running > self.halt_threshold


@dataclass(frozen=True)
class Outcome:
    """What goes out: the text, why it ends, its verdict.

    redactions: where each of the verdict's spans stands in `text`, one `(start, end)` a span; None where none was
    replaced. own: whether the text is the model's, word for word.
    """

    text: str
    finish_reason: FinishReason
    verdict: Verdict
    redactions: tuple[tuple[int, int], ...] | None = None
    own: bool = True


def rule(
    rules: Rules, text: str, finish_reason: FinishReason, detection: Detection, *, halted: bool = False
) -> Outcome:
    """What goes out of one answer. `verdict.action` is what was done: "annotate" where nothing was.

    halted: whether the answer was stopped by `Rules.halts`. A flagged answer without spans has nothing to redact.
    """
    verdict = decide(detection, rules.threshold)
    if rules.fail_closed and detection.reason in FAILURES:
        return _blocked(rules, detection)
    if halted:
        return Outcome(text, "content_filter", decide(detection, rules.threshold, "halt"))
    if rules.policy == "hold":
        return Outcome(text, finish_reason, decide(detection, rules.threshold, "hold"))
    if not verdict.flagged:
        return Outcome(text, finish_reason, verdict)
    if rules.policy == "block":
        return _blocked(rules, detection)
    if rules.policy == "redact" and detection.spans:
        redacted, places = redact(text, detection.spans, rules.redaction)
        return Outcome(redacted, finish_reason, decide(detection, rules.threshold, "redact"), places, own=False)
    return Outcome(text, finish_reason, verdict)


def redact(text: str, spans: Sequence[Span], mark: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """`text` with `mark` for each span, and where in it the marks stand. Spans are in order and do not overlap."""
    out, places, at, length = [], [], 0, 0
    for span in spans:
        kept = text[at : span.start]
        start = length + len(kept)
        places.append((start, start + len(mark)))
        out += [kept, mark]
        at, length = span.end, start + len(mark)
    return "".join([*out, text[at:]]), tuple(places)


def try_again(messages: Sequence[Message], text: str, detection: Detection) -> list[Message]:
    """The conversation that asks for a better answer than `text`, saying what of it was unsupported."""
    quoted = [f'- "{span.text.strip()}"' for span in detection.spans if span.text.strip()]
    wrong = "These parts of your answer are not supported by the passages:\n" + "\n".join(quoted)
    ask = "Answer again, using only what the passages say. If they do not say, say so."
    critique = wrong if quoted else "Your answer is not supported by the passages."
    return [
        *messages,
        {"role": "assistant", "content": text},
        {"role": "user", "content": f"{critique}\n\n{ask}"},
    ]


def better(first: Verdict, second: Verdict) -> bool:
    """Whether the second attempt is the better answer: an abstention beats a flagged one, a lower score a higher."""
    return _rank(second) < _rank(first)


def lowest_false_alarms(thresholds: Mapping[str, float], threshold: float) -> float:
    """The highest of a detector's thresholds that can be passed at all, at least `threshold`: what "halt" goes by, for
    the score so far moves more than that of a whole answer."""
    return max([threshold, *(value for value in thresholds.values() if value < 1)])


def _rank(verdict: Verdict) -> tuple[int, float]:
    if verdict.score is not None:
        return (2 if verdict.flagged else 0), verdict.score
    return (1 if verdict.detection.reason == "abstained" else 3), 0.0


def _blocked(rules: Rules, detection: Detection) -> Outcome:
    return Outcome(rules.block_message, "content_filter", decide(detection, rules.threshold, "block"), own=False)
