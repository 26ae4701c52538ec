"""From token sums to spans: the chance that a token lies in an unfaithful span, and the rule that draws spans.

Both are learned from out-of-fold token sums of the responses whose spans are labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from groundwire.prompts import tokenize_response
from groundwire.spans import Mark, SpanRule, find_spans
from groundwire.training.calibrate import platt
from groundwire.training.data import LabelledExample
from groundwire.training.metrics import auc
from groundwire.types import SentenceScore, Token, TokenScore

MIN_UNFAITHFUL_TOKENS = 50
# Candidate thresholds stand at these quantiles of the token scores, candidate gaps in code points.
QUANTILES = np.linspace(0.5, 0.995, 30)
GAPS = (1, 12, 40, 120)
MIN_LENGTH = 2
SENTENCES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6)  # scores
FAULTS = (None, 0.25, 0.5, 1.0, 2.0)  # log-odds


@dataclass(frozen=True)
class TokenCalibration:
    """`intercept + scale * sum` is a token's log-odds; `rule` draws spans; `figures` are out-of-fold."""

    intercept: float
    scale: float
    rule: SpanRule
    figures: dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What is known of a response besides its tokens: its sentences with their scores, and the faults of its text."""

    sentences: tuple[SentenceScore, ...] = ()
    marks: tuple[Mark, ...] = ()


def calibrate_tokens(
    tokenizer: Any,
    examples: Sequence[LabelledExample],
    token_sums: Sequence[Float[np.ndarray, " _"]],
    seen: Sequence[Seen] = (),
) -> TokenCalibration:
    """Scale, intercept and span rule from rows with labelled spans.

    seen: of each response, where it is read by sentences: then the rule also says in which of them spans may lie, and
    which faults are spans.

    Where too few tokens are labelled unfaithful, nothing is learned: sums are taken as log-odds as they are, and the
    figures say None.
    """
    labelled = [i for i, e in enumerate(examples) if e.spans is not None]
    tokens = {i: tokenize_response(tokenizer, examples[i].response) for i in labelled}
    truth = {i: inside(tokens[i], examples[i].spans or ()) for i in labelled}
    joined = np.concatenate([truth[i] for i in labelled]) if labelled else np.zeros(0)
    if joined.sum() < MIN_UNFAITHFUL_TOKENS:
        return TokenCalibration(0.0, 1.0, SpanRule(), {"token_auc": None, "span_f1": None})
    sums = np.concatenate([token_sums[i] for i in labelled])
    scale, intercept = platt(sums, joined)
    scored = {
        i: [
            TokenScore(examples[i].response[t.start : t.end], t.start, t.end, float(score))
            for t, score in zip(tokens[i], expit(intercept + scale * token_sums[i]), strict=True)
        ]
        for i in labelled
    }
    rule, best = _best_rule(examples, scored, expit(intercept + scale * sums), seen)
    return TokenCalibration(
        intercept, scale, rule, {"token_auc": auc(joined, sums), "span_f1": best, "labelled_responses": len(labelled)}
    )


def span_f1(
    examples: Sequence[LabelledExample],
    scored: dict[int, list[TokenScore]],
    rule: SpanRule,
    seen: Sequence[Seen] = (),
) -> float:
    """F1 over characters of the spans that `rule` draws, mean over data sets: each has spans of its own length."""
    counts: dict[str, list[int]] = {}
    for i, tokens in scored.items():
        response = examples[i].response
        found, truth = np.zeros(len(response), bool), np.zeros(len(response), bool)
        more = seen[i] if seen else Seen()
        for span in find_spans(response, tokens, rule, more.sentences, more.marks):
            found[span.start : span.end] = True
        for start, end in examples[i].spans or ():
            truth[start:end] = True
        own = counts.setdefault(examples[i].dataset, [0, 0, 0])
        for k, number in enumerate(((found & truth).sum(), found.sum(), truth.sum())):
            own[k] += int(number)
    values = [2 * hit / max(1, drawn + wanted) for hit, drawn, wanted in counts.values() if wanted]
    return float(np.mean(values)) if values else 0.0


def _best_rule(
    examples: Sequence[LabelledExample],
    scored: dict[int, list[TokenScore]],
    scores: np.ndarray,
    seen: Sequence[Seen],
) -> tuple[SpanRule, float]:
    thresholds = np.unique(np.quantile(scores, QUANTILES))
    best, value = SpanRule(min_length=MIN_LENGTH), -1.0
    for turn in range(3 if seen else 1):  # tokens, sentences, and tokens once more
        if turn == 1:
            rules = [replace(best, sentence=score, fault=fault) for score in SENTENCES for fault in FAULTS]
        else:
            rules = [replace(best, threshold=float(t), merge_gap=gap) for t in thresholds for gap in GAPS]
        values = [span_f1(examples, scored, rule, seen) for rule in rules]
        best, value = rules[int(np.argmax(values))], max(values)
    return best, value


def inside(tokens: Sequence[Token], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """1 for tokens that share a code point with a span."""
    return np.array([any(t.start < end and t.end > start for start, end in spans) for t in tokens], dtype=int)
