"""From token sums to spans: the chance that a token lies in an unfaithful span, and the rule that draws spans.

Both are learned from out-of-fold token sums of the responses whose spans are labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from groundwire.prompts import tokenize_response
from groundwire.spans import SpanRule, find_spans
from groundwire.training.calibrate import platt
from groundwire.training.data import LabelledExample
from groundwire.training.metrics import auc
from groundwire.types import Token, TokenScore

MIN_UNFAITHFUL_TOKENS = 50
# Candidate thresholds stand at these quantiles of the token scores, candidate gaps in code points.
QUANTILES = np.linspace(0.5, 0.995, 30)
GAPS = (1, 12, 40, 120)
MIN_LENGTH = 2


@dataclass(frozen=True)
class TokenCalibration:
    """`intercept + scale * sum` is a token's log-odds; `rule` draws spans; `figures` are out-of-fold."""

    intercept: float
    scale: float
    rule: SpanRule
    figures: dict[str, Any]


def calibrate_tokens(
    tokenizer: Any, examples: Sequence[LabelledExample], token_sums: Sequence[Float[np.ndarray, " _"]]
) -> TokenCalibration:
    """Scale, intercept and span rule from rows with labelled spans.

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
    rule, best = _best_rule(examples, scored, expit(intercept + scale * sums))
    return TokenCalibration(
        intercept, scale, rule, {"token_auc": auc(joined, sums), "span_f1": best, "labelled_responses": len(labelled)}
    )


def span_f1(examples: Sequence[LabelledExample], scored: dict[int, list[TokenScore]], rule: SpanRule) -> float:
    """F1 over characters, all responses together, of the spans that `rule` draws."""
    hit = drawn = wanted = 0
    for i, tokens in scored.items():
        response = examples[i].response
        found, truth = np.zeros(len(response), bool), np.zeros(len(response), bool)
        for span in find_spans(response, tokens, rule):
            found[span.start : span.end] = True
        for start, end in examples[i].spans or ():
            truth[start:end] = True
        hit, drawn, wanted = hit + int((found & truth).sum()), drawn + int(found.sum()), wanted + int(truth.sum())
    return 2 * hit / max(1, drawn + wanted)


def _best_rule(
    examples: Sequence[LabelledExample], scored: dict[int, list[TokenScore]], scores: np.ndarray
) -> tuple[SpanRule, float]:
    thresholds = np.unique(np.quantile(scores, QUANTILES))
    rules = [SpanRule(float(threshold), gap, MIN_LENGTH) for threshold in thresholds for gap in GAPS]
    values = [span_f1(examples, scored, rule) for rule in rules]
    best = int(np.argmax(values))
    return rules[best], values[best]


def inside(tokens: Sequence[Token], spans: Sequence[tuple[int, int]]) -> np.ndarray:
    """1 for tokens that share a code point with a span."""
    return np.array([any(t.start < end and t.end > start for start, end in spans) for t in tokens], dtype=int)
