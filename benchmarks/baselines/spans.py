"""Token scores smoothed along the answer, and what spans drawn from them are worth on groups that chose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from groundwire.prompts import tokenize_response
from groundwire.training.data import LabelledExample, folds
from groundwire.training.metrics import auc, auc_interval
from groundwire.training.pack import smoothed
from groundwire.training.tokens import TokenCalibration, calibrate_tokens, inside, span_f1
from groundwire.types import TokenScore

WIDTHS = (0, 2, 4, 6, 8)


@dataclass(frozen=True)
class Tokens:
    """Answers with labelled spans, and the sums of their tokens' contributions."""

    tokenizer: Any
    examples: list[LabelledExample]
    sums: list[np.ndarray]

    def smoothed(self, half: int) -> Tokens:
        return Tokens(self.tokenizer, self.examples, [smoothed(own, half) for own in self.sums])

    def take(self, chosen: Sequence[int] | np.ndarray) -> Tokens:
        return Tokens(self.tokenizer, [self.examples[i] for i in chosen], [self.sums[i] for i in chosen])

    def truth(self) -> np.ndarray:
        return np.concatenate(
            [inside(tokenize_response(self.tokenizer, e.response), e.spans or ()) for e in self.examples]
        )

    def auc(self) -> float | None:
        return auc(self.truth(), np.concatenate(self.sums))


def figures(tokens: Tokens) -> list[dict[str, Any]]:
    """A line for each width, and one for the width of the best token AUC on the half that is not measured.

    Token AUC needs no fit: all answers together, intervals over groups. Span F1: scale and rule are fitted on one half
    of the groups and measured on the other, both ways; the mean of the two.
    """
    groups = np.array([e.group for e in tokens.examples])
    halves = folds(groups, [e.label for e in tokens.examples], 2, 0)
    of_token = np.repeat(groups, [len(own) for own in tokens.sums])
    truth = tokens.truth()
    lines, found = [], {}
    for half in WIDTHS:
        own = tokens.smoothed(half)
        scores = np.concatenate(own.sums)
        found[half] = [
            (own.take(fit).auc() or 0.0, own.take(test).auc(), _span_f1(own, fit, test)) for fit, test in halves
        ]
        lines.append(
            {
                "half-width": half,
                "token AUC": auc(truth, scores),
                "95 % interval": auc_interval(truth, scores, of_token, draws=200),
                "span F1": float(np.mean([f for _, _, f in found[half]])),
            }
        )
    best = [min((-found[half][k][0], half) for half in WIDTHS)[1] for k in range(2)]
    chosen = [found[half][k] for k, half in enumerate(best)]
    title = f"chosen on the other half ({' and '.join(map(str, best))})"
    values = [value for _, value, _ in chosen if value is not None]
    mean = float(np.mean(values)) if values else None
    lines.append(
        {
            "half-width": title,
            "token AUC": mean,
            "95 % interval": None,
            "span F1": float(np.mean([f for *_, f in chosen])),
        }
    )
    return lines


def _span_f1(tokens: Tokens, fit: np.ndarray, test: np.ndarray) -> float:
    part, rest = tokens.take(fit), tokens.take(test)
    fitted = calibrate_tokens(tokens.tokenizer, part.examples, part.sums)
    scored = {i: _scores(rest, i, fitted) for i in range(len(rest.examples))}
    return span_f1(rest.examples, scored, fitted.rule)


def _scores(tokens: Tokens, i: int, fitted: TokenCalibration) -> list[TokenScore]:
    response = tokens.examples[i].response
    pieces = tokenize_response(tokens.tokenizer, response)
    scores = expit(fitted.intercept + fitted.scale * tokens.sums[i])
    return [
        TokenScore(response[t.start : t.end], t.start, t.end, float(s)) for t, s in zip(pieces, scores, strict=True)
    ]
