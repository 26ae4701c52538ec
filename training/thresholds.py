"""Thresholds by target: balanced accuracy, or a limit on false alarms that holds for new groups.

A row is flagged where its score is *above* the threshold, so that a threshold of 1 flags nothing.

For balanced accuracy it is the share of unfaithful rows: of a calibrated score, that is where an answer is as likely
among the faithful as among the unfaithful (Bayes' rule), so no other threshold does better. The threshold that happens
to be best on the rows at hand varies far more from sample to sample, and does worse on others.

The limit is kept by conformal risk control (Angelopoulos, Bates, Fisch, Lei, Schuster, ICLR 2024, eq. 4) over groups.
A group's loss is the share of its faithful rows that are flagged; the threshold is the lowest one at which

    n / (n + 1) * mean loss of the n groups with faithful rows  +  1 / (n + 1)  <=  limit.

What is guaranteed: for a new group exchangeable with those calibrated on, the expected loss is at most the limit; the
expectation is over the calibration groups as well (marginal), so a particular threshold may do a little worse. With
several data sets the left side is the mean over data sets, and the guarantee is for a new group of a data set drawn
with equal chance; data sets with fewer than 1 / limit groups, which alone could promise nothing, count as one. Nothing
is guaranteed under shift: for other kinds of text, or another model's answers.
Where the logits are out-of-fold, those of the shipped model, which was fitted on all rows, are exchangeable with them
only approximately.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Shaped

from groundwire.calibration import normal_target, parse_limit
from groundwire.errors import InputError

_ROUNDING = 1e-12


def row_weights(
    n: int, datasets: Shaped[np.ndarray, " n"] | None = None, weights: Shaped[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, " n"]:
    """One weight per row, mean 1: every data set has the same total, shared among its rows as `weights` says (evenly).

    Raises InputError on weights that are negative or not finite, and on a data set that would weigh nothing.
    """
    own = np.ones(n) if weights is None else np.asarray(weights, float)
    if not (np.isfinite(own).all() and (own >= 0).all()):
        raise InputError("row weights below 0, NaN or infinite", expected="one finite weight per row, 0 or more")
    member = np.zeros(n, int) if datasets is None else np.unique(datasets, return_inverse=True)[1]
    totals = np.bincount(member, own)
    if not (totals > 0).all():
        raise InputError("a data set whose rows all weigh 0", expected="a positive weight in each data set")
    return own / totals[member] * n / len(totals)


def choose_threshold(
    scores: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    target: str,
    *,
    datasets: Shaped[np.ndarray, " n"] | None = None,
    weights: Shaped[np.ndarray, " n"] | None = None,
) -> float:
    """The score above which rows are flagged, 1 to flag none. `scores` are calibrated on these rows and weights.

    target: "balanced_accuracy", or one like "fpr<=0.05" (see above: midway between two observed scores; every group of
        a data set counts alike, whatever `weights` says). Raises InputError on any other target.
    """
    if normal_target(target) == "balanced_accuracy":
        return float(np.average(labels, weights=row_weights(len(labels), datasets, weights)))
    limit = parse_limit(target)
    if limit is None:
        raise InputError(f"threshold target {target!r}", expected='"balanced_accuracy" or one like "fpr<=0.05"')
    datasets = _pooled(labels, groups, datasets, limit)
    edges = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    candidates = np.append((edges[:-1] + edges[1:]) / 2, 1.0)
    keeps = risk_bound(candidates, scores, labels, groups, datasets) <= limit + _ROUNDING
    return float(candidates[np.argmax(keeps)]) if keeps.any() else 1.0


def risk_bound(
    candidates: Float[np.ndarray, " c"],
    scores: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    datasets: Shaped[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " c"]:
    """Left side of the condition above at each candidate threshold: never rises with the threshold."""
    bounds = []
    for rows in _faithful_by_dataset(labels, datasets):
        _, member, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
        flagged = _weight_above(candidates, scores[rows], 1 / sizes[member])  # summed losses of the groups
        bounds.append((flagged + 1) / (len(sizes) + 1))
    return np.mean(bounds, axis=0) if bounds else np.ones(len(candidates))


def shortage(
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    target: str,
    datasets: Shaped[np.ndarray, " n"] | None = None,
) -> str | None:
    """Why a limit on false alarms flags nothing: too few groups with faithful rows; None where there are enough.

    Even with no false alarm at all the condition above needs 1 / (n + 1) <= limit.
    """
    limit = parse_limit(target)
    if limit is None:
        return None
    datasets = _pooled(labels, groups, datasets, limit)
    counts = [len(np.unique(groups[rows])) for rows in _faithful_by_dataset(labels, datasets)]
    if np.mean([1 / (count + 1) for count in counts or [0]]) <= limit + _ROUNDING:
        return None
    needed = f"at least {math.ceil(1 / limit - 1 - 1e-9)} are needed" if limit else "no number is enough"
    held = " and ".join(map(str, counts)) or "no"
    of_each = " of each data set" if len(counts) > 1 else ""
    return f"{normal_target(target)} flags nothing: {held} groups{of_each} hold faithful rows, and {needed}"


def _pooled(
    labels: np.ndarray, groups: np.ndarray, datasets: np.ndarray | None, limit: float
) -> Shaped[np.ndarray, " n"] | None:
    """Data sets as numbers, those with too few groups for the limit as one."""
    if datasets is None:
        return None
    names, member = np.unique(datasets, return_inverse=True)
    for i in range(len(names)):
        if (len(np.unique(groups[(member == i) & (labels == 0)])) + 1) * limit < 1 - _ROUNDING:
            member[member == i] = len(names)
    return member


def _faithful_by_dataset(labels: np.ndarray, datasets: np.ndarray | None) -> list[np.ndarray]:
    """Row indices of the faithful rows of each data set that has any."""
    member = np.zeros(len(labels), int) if datasets is None else np.unique(datasets, return_inverse=True)[1]
    rows = [np.flatnonzero((member == i) & (labels == 0)) for i in range(member.max() + 1)]
    return [own for own in rows if len(own)]


def _weight_above(candidates: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Total weight of the rows above each candidate."""
    order = np.argsort(scores)
    above = np.append(np.cumsum(weights[order][::-1])[::-1], 0.0)
    return above[np.searchsorted(scores[order], candidates, side="right")]
