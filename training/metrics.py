"""What a detector is worth: ranking, decisions, calibration, and the priors every figure must stand beside.

Definitions are those of common use: a score is the probability of *unfaithful* (label 1); AUC gives ties one half.
A figure that the rows do not define (AUC of one label, no generator with enough rows) is None, never a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from groundwire.training.data import LabelledExample

DRAWS = 1000
MIN_ROWS = 5  # of each label, for a generator to count in `auc_within_generator`
_DRAWS_AT_ONCE = 100

Labels = Shaped[np.ndarray, " n"]
Scores = Shaped[np.ndarray, " n"]


def auc(labels: Labels, scores: Scores) -> float | None:
    """Area under the ROC curve; None where only one label occurs."""
    value = _weighted_aucs(labels, scores, np.ones((1, len(labels))))[0]
    return None if np.isnan(value) else float(value)


def auc_interval(
    labels: Labels, scores: Scores, groups: Shaped[np.ndarray, " n"], *, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float] | None:
    """95 % percentile interval of the AUC, by bootstrap over whole groups; None where no draw has both labels."""
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    values: list[np.ndarray] = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        drawn = rng.integers(len(names), size=(min(_DRAWS_AT_ONCE, draws - start), len(names)))
        times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn])
        values.append(_weighted_aucs(labels, scores, times[:, member]))
    found = np.sort(np.concatenate(values))
    found = found[~np.isnan(found)]
    return (float(found[int(0.025 * len(found))]), float(found[int(0.975 * len(found))])) if len(found) else None


def auc_within_generator(labels: Labels, scores: Scores, generators: Shaped[np.ndarray, " n"]) -> float | None:
    """Mean AUC over generators with at least `MIN_ROWS` rows of each label; None where there is none."""
    chosen = [generators == name for name in np.unique(generators)]
    values = [
        auc(labels[rows], scores[rows])
        for rows in chosen
        if min((labels[rows] == 0).sum(), (labels[rows] == 1).sum()) >= MIN_ROWS
    ]
    return float(np.mean(np.array(values))) if values else None


def balanced_accuracy(labels: Labels, flagged: Shaped[np.ndarray, " n"]) -> float:
    """Mean of the shares of unfaithful rows flagged and of faithful rows not flagged (0 for an absent label)."""
    hit, miss, alarm, quiet = _counts(labels, flagged)
    return (hit / max(1, hit + miss) + quiet / max(1, quiet + alarm)) / 2


def f1(labels: Labels, flagged: Shaped[np.ndarray, " n"]) -> float:
    """F1 of the unfaithful label; 0 where nothing is unfaithful and nothing flagged."""
    hit, miss, alarm, _ = _counts(labels, flagged)
    return 2 * hit / max(1, 2 * hit + miss + alarm)


def brier(labels: Labels, scores: Scores) -> float:
    """Mean squared difference of score and label."""
    return float(np.mean((scores - labels) ** 2))


def ece(labels: Labels, scores: Scores, bins: int = 10) -> float:
    """Expected calibration error: gap of mean score and share of unfaithful in `bins` equal bins, weighted by rows."""
    cell = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = np.bincount(cell, labels, minlength=bins) - np.bincount(cell, scores, minlength=bins)
    return float(np.abs(gaps).sum() / len(scores))


def priors(examples: Sequence[LabelledExample]) -> dict[str, float | None]:
    """AUC of four scores that look at no model: what a detector has to beat.

    length: characters of the response. generator: share of unfaithful rows of the generator that wrote it, over these
    rows. absent_words: response words that the prompt lacks. absent_bigrams: longest run of response bigrams that the
    prompt lacks. Words are compared in lower case.
    """
    labels = np.array([e.label for e in examples])
    _, generator = np.unique([e.generator for e in examples], return_inverse=True)
    rate = np.bincount(generator, labels) / np.bincount(generator)
    return {
        "length": auc(labels, np.array([len(e.response) for e in examples])),
        "generator": auc(labels, rate[generator]),
        "absent_words": auc(labels, np.array([absent_words(e.prompt, e.response) for e in examples])),
        "absent_bigrams": auc(labels, np.array([absent_bigrams(e.prompt, e.response) for e in examples])),
    }


def absent_words(prompt: str, response: str) -> int:
    """How many words of the response, repetitions counted, do not occur in the prompt."""
    known = set(_words(prompt))
    return sum(word not in known for word in _words(response))


def absent_bigrams(prompt: str, response: str) -> int:
    """Length of the longest run of response bigrams that do not occur in the prompt."""
    words, asked = _words(response), _words(prompt)
    known = set(pairwise(asked))
    longest = run = 0
    for pair in pairwise(words):
        run = 0 if pair in known else run + 1
        longest = max(longest, run)
    return longest


def figures(
    examples: Sequence[LabelledExample], scores: Float[np.ndarray, " n"], threshold: float, *, seed: int = 0
) -> dict[str, Any]:
    """All of the above for one data set, in the shape that an artifact's config and card hold."""
    labels = np.array([e.label for e in examples])
    flagged = scores >= threshold
    return {
        "rows": len(examples),
        "unfaithful": int(labels.sum()),
        "groups": len({e.group for e in examples}),
        "auc": auc(labels, scores),
        "auc_interval": auc_interval(labels, scores, np.array([e.group for e in examples]), seed=seed),
        "auc_within_generator": auc_within_generator(labels, scores, np.array([e.generator for e in examples])),
        "threshold": threshold,
        "balanced_accuracy": balanced_accuracy(labels, flagged),
        "f1": f1(labels, flagged),
        "brier": brier(labels, scores),
        "ece": ece(labels, scores),
        "priors": priors(examples),
    }


def _weighted_aucs(labels: Labels, scores: Scores, weights: Shaped[np.ndarray, "draws n"]) -> np.ndarray:
    """AUC of each draw, a draw being how often each row is taken; NaN where a draw lacks a label."""
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    positive = labels[order] == 1
    taken = weights[:, order].astype(float)
    ups = np.add.reduceat(taken * positive, starts, axis=1)
    downs = np.add.reduceat(taken * ~positive, starts, axis=1)
    beaten = np.cumsum(downs, axis=1) - downs / 2  # a tie counts one half
    pairs = ups.sum(axis=1) * downs.sum(axis=1)
    return np.divide((ups * beaten).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _counts(labels: Labels, flagged: np.ndarray) -> tuple[int, int, int, int]:
    truth, flagged = labels == 1, flagged.astype(bool)
    pairs = ((truth, flagged), (truth, ~flagged), (~truth, flagged), (~truth, ~flagged))
    return tuple(int((a & b).sum()) for a, b in pairs)  # type: ignore[return-value]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
