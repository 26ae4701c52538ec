"""How often the detector is right, where labels say what is right. Small numpy, no fitting."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
Interval = tuple[float, float]


@dataclass(frozen=True)
class Bin:
    """Answers of similar score: how many, their mean score, how many of them are unfaithful."""

    rows: int
    mean: float
    unfaithful: int

    @property
    def interval(self) -> Interval:
        return wilson(self.unfaithful, self.rows)


def auc(
    labels: Int[np.ndarray, " rows"],
    scores: Float[np.ndarray, " rows"],
    weights: Int[np.ndarray, " rows"] | None = None,
) -> float | None:
    """Chance that an unfaithful answer scores above a faithful one, ties counting half; None without both labels.

    weights: how often each row counts.
    """
    values, place = np.unique(scores, return_inverse=True)
    return _auc(labels, place, len(values), np.ones(len(labels), dtype=np.int64) if weights is None else weights)


def auc_interval(
    labels: Int[np.ndarray, " rows"],
    scores: Float[np.ndarray, " rows"],
    groups: Int[np.ndarray, " rows"],
    *,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """95 % interval of the AUC, by percentile bootstrap over groups (Efron and Tibshirani 1993, ch. 13).

    groups: 0, 1, ... per row; a group is drawn with all its rows, as rows of one source are not independent.
    Draws without both labels are left out; None where none is left.
    """
    values, place = np.unique(scores, return_inverse=True)
    number = int(groups.max()) + 1 if len(groups) else 0
    rng, found = np.random.default_rng(0), []
    for _ in range(resamples if number else 0):
        drawn = np.bincount(rng.integers(number, size=number), minlength=number)
        value = _auc(labels, place, len(values), drawn[groups])
        if value is not None:
            found.append(value)
    return (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if found else None


def wilson(part: int, whole: int) -> Interval:
    """95 % interval of a binomial share (Wilson 1927), within 0 and 1 and sensible for few rows; `whole` above 0."""
    z2 = 1.959964**2
    share = part / whole
    middle = share + z2 / (2 * whole)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * whole)) / whole)
    scale = 1 + z2 / whole
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def brier(labels: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> float:
    """Mean squared distance of score and label (Brier 1950): 0 is perfect."""
    return float(np.mean((scores - labels) ** 2))


def reliability(labels: Int[np.ndarray, " rows"], scores: Float[np.ndarray, " rows"]) -> list[Bin]:
    """Answers in bins of about equal size by score, at most ten, about ten rows or more in each.

    Equal scores share a bin, so there may be fewer bins.
    """
    bins = min(10, max(1, len(scores) // 10))
    inner = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1))[1:-1])
    place = np.searchsorted(inner, scores, side="right")
    found = []
    for i in range(len(inner) + 1):
        inside = place == i
        if inside.any():
            found.append(Bin(int(inside.sum()), float(scores[inside].mean()), int(labels[inside].sum())))
    return found


def _auc(
    labels: Int[np.ndarray, " rows"], place: Int[np.ndarray, " rows"], places: int, weights: Int[np.ndarray, " rows"]
) -> float | None:
    above = np.bincount(place, weights * labels, minlength=places)
    below = np.bincount(place, weights * (1 - labels), minlength=places)
    pairs = above.sum() * below.sum()
    return float((above * (np.cumsum(below) - below / 2)).sum() / pairs) if pairs else None
