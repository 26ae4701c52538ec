"""From out-of-fold logits to probabilities and thresholds.

Calibration is a scale and a shift (Platt 1999, with his smoothed targets), so it folds into intercept and shapes.
Give it logits of rows the model was not fitted on: those of its own training rows are far too sure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import minimize
from scipy.special import expit

from groundwire.errors import InputError

TARGETS = ("balanced_accuracy", "fpr<=0.05")
# Of the standardised logits. Logits that order rows wrongly end here: every score is then close to the prevalence.
_MIN_SCALE = 1e-3


@dataclass(frozen=True)
class Calibrated:
    """`sigmoid(scale * logit + shift)` is the probability of unfaithful at `prevalence`; scale > 0.

    prevalence: share of unfaithful rows among those calibrated on. thresholds: score by target; flag at or above it.
    """

    scale: float
    shift: float
    prevalence: float
    thresholds: dict[str, float]

    def scores(self, logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return expit(self.scale * logits + self.shift)


def calibrate(
    logits: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"], targets: Sequence[str] = TARGETS
) -> Calibrated:
    """Scale, shift and one threshold per target, from out-of-fold logits (log-odds).

    Raises InputError on logits that are not finite, labels of one kind, or an unknown target.
    """
    if not np.isfinite(logits).all():
        raise InputError("logits with NaN or infinity", expected="one finite out-of-fold logit per row")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError(f"labels {np.unique(labels).tolist()}", expected="both 0 and 1", remedy="add labelled rows")
    scale, shift = platt(logits, labels)
    scores = expit(scale * logits + shift)
    thresholds = {target: choose_threshold(scores, labels, target) for target in targets}
    return Calibrated(scale, shift, float(np.mean(labels)), thresholds)


def platt(logits: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"]) -> tuple[float, float]:
    """The scale (> 0) and shift that minimise log-loss."""
    mean, deviation = float(logits.mean()), float(logits.std()) or 1.0
    x = (logits - mean) / deviation
    positives, negatives = (labels == 1).sum(), (labels == 0).sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        residual = expit(z) - target
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([np.mean(residual * x), np.mean(residual)])

    start = np.array([1.0, np.log(positives / negatives)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(_MIN_SCALE, None), (None, None)], tol=1e-12)
    scale, shift = found.x
    return float(scale / deviation), float(shift - scale * mean / deviation)


def choose_threshold(scores: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"], target: str) -> float:
    """The score from which rows are flagged: midway between two observed scores, or just above 1 to flag none.

    target: "balanced_accuracy" (its maximum; the higher threshold of equals), or "fpr<=0.05" (the lowest threshold
        that flags at most this share of faithful rows). Raises InputError on any other.
    """
    edges = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates = np.append((edges[:-1] + edges[1:]) / 2, np.nextafter(1.0, 2.0))
    fpr, tpr = (_flagged_share(scores[labels == label], candidates) for label in (0, 1))
    if target == "balanced_accuracy":
        balanced = tpr - fpr
        return float(candidates[balanced >= balanced.max() - 1e-12][-1])
    limit = re.fullmatch(r"fpr<=(0?\.\d+|0|1)", target)
    if limit is None:
        raise InputError(f"threshold target {target!r}", expected='"balanced_accuracy" or one like "fpr<=0.05"')
    return float(candidates[fpr <= float(limit[1])][0])


def _flagged_share(scores: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    # Count, then divide: 1 - 0.7 is above 0.3, 3 / 10 is not.
    return (len(scores) - np.searchsorted(np.sort(scores), candidates, side="left")) / len(scores)
