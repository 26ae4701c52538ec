"""What a detector is worth: ranking, decisions, calibration, and the priors every figure must stand beside.

Definitions are those of common use: a score is the probability of *unfaithful* (label 1); AUC gives ties one half.
A figure that the rows do not define (AUC of one label, no generator with enough rows) is None, never a number.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from groundwire.training.data import LabelledExample

DRAWS = 1000
MIN_ROWS = 5  # of each label, for a generator to count in `auc_within_generator`
BINS = 10
_DRAWS_AT_ONCE = 100
_NORMAL_95 = 1.959963984540054

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
    drawn = (
        _weighted_aucs(labels, scores, times) for times in _group_draws(groups, np.zeros(len(labels)), seed, draws)
    )
    return _interval(np.concatenate(list(drawn)))


@dataclass(frozen=True)
class Difference:
    """AUC of one score less that of another on the same rows, with its 95 % interval."""

    value: float
    low: float
    high: float


def paired_difference(
    labels: Labels,
    a: Scores,
    b: Scores,
    groups: Shaped[np.ndarray, " n"],
    datasets: Shaped[np.ndarray, " n"] | None = None,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference | None:
    """AUC of `a` less AUC of `b`, with a 95 % percentile interval by paired bootstrap: each draw takes whole groups,
    and the same ones for both scores. None where a data set lacks a label.

    datasets: data set of each row. The difference is then the mean of the data sets' own differences; groups are drawn
        within each data set, and one that occurs in several is drawn in all of them together.
    """
    member = np.zeros(len(labels)) if datasets is None else datasets
    parts = [member == name for name in np.unique(member)]

    def difference(times: np.ndarray) -> np.ndarray:
        own = [
            _weighted_aucs(labels[rows], a[rows], times[:, rows])
            - _weighted_aucs(labels[rows], b[rows], times[:, rows])
            for rows in parts
        ]
        return np.mean(own, axis=0)

    value = float(difference(np.ones((1, len(labels))))[0])
    interval = _interval(np.concatenate([difference(times) for times in _group_draws(groups, member, seed, draws)]))
    return None if np.isnan(value) or interval is None else Difference(value, *interval)


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


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of similar score: their mean score, the share that is unfaithful, and its 95 % Wilson interval, which
    counts rows as independent (rows of one group are less than that)."""

    mean_score: float
    unfaithful: float
    count: int
    low: float
    high: float


def reliability(labels: Labels, scores: Scores, bins: int = BINS) -> list[ReliabilityBin]:
    """At most `bins` bins of about equally many rows, by ascending score; rows of equal score share a bin."""
    found = []
    for rows in _quantile_bins(scores, bins):
        share, n = float(np.mean(labels[rows])), len(rows)
        z2 = _NORMAL_95**2 / n
        middle = (share + z2 / 2) / (1 + z2)
        half = float(np.sqrt(z2 * share * (1 - share) + z2**2 / 4)) / (1 + z2)
        low, high = max(0.0, middle - half), min(1.0, middle + half)
        found.append(ReliabilityBin(float(np.mean(scores[rows])), share, n, low, high))
    return found


def debiased_ece(labels: Labels, scores: Scores, bins: int = BINS) -> float:
    """Debiased l2 calibration error (root mean square over rows) in `bins` quantile bins.

    sqrt(max(0, sum_b n_b/n * [(score_b - share_b)^2 - share_b * (1 - share_b) / (n_b - 1)])): mean score and share of
    unfaithful in each bin, less what the share's sampling noise adds to their squared gap (Kumar, Liang, Ma 2019,
    "Verified Uncertainty Calibration", section 5). Unlike `ece` it does not grow as rows become few.
    """
    total = 0.0
    for rows in _quantile_bins(scores, bins):
        share, n = float(np.mean(labels[rows])), len(rows)
        total += n * ((float(np.mean(scores[rows])) - share) ** 2 - share * (1 - share) / max(1, n - 1))
    return float(np.sqrt(max(0.0, total / len(scores))))


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
    flagged = scores > threshold
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
        "debiased_ece": debiased_ece(labels, scores),
        "priors": priors(examples),
    }


def _quantile_bins(scores: np.ndarray, bins: int) -> list[np.ndarray]:
    """Row indices by ascending score, cut at the scores of equal ranks; equal scores are never parted."""
    cuts = np.unique(np.quantile(scores, np.arange(1, bins) / bins, method="inverted_cdf"))
    cell = np.searchsorted(cuts, scores, side="left")
    return [rows for i in range(len(cuts) + 1) if len(rows := np.flatnonzero(cell == i))]


def _group_draws(groups: np.ndarray, datasets: np.ndarray, seed: int, draws: int) -> Iterator[np.ndarray]:
    """Bootstrap draws over whole groups, some at once: how often each row is taken `[draws, n]`.

    Groups are drawn among those of the same data sets: each data set keeps its number of groups, and a group that
    occurs in several is drawn in all of them together.
    """
    names, member = np.unique(groups, return_inverse=True)
    _, dataset = np.unique(datasets, return_inverse=True)
    occurs = np.zeros((len(names), dataset.max() + 1), bool)
    occurs[member, dataset] = True
    strata: dict[bytes, list[int]] = defaultdict(list)
    for group, where in enumerate(occurs):
        strata[where.tobytes()].append(group)
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        times = np.zeros((min(_DRAWS_AT_ONCE, draws - start), len(names)), int)
        for stratum in strata.values():
            drawn = rng.integers(len(stratum), size=(len(times), len(stratum)))
            times[:, stratum] = [np.bincount(row, minlength=len(stratum)) for row in drawn]
        yield times[:, member]


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    """2.5 % and 97.5 % of the values that are numbers; None where none is."""
    found = np.sort(values[~np.isnan(values)])
    return (float(found[int(0.025 * len(found))]), float(found[int(0.975 * len(found))])) if len(found) else None


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
