from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.report.accuracy import auc, auc_interval, brier, reliability, wilson

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=30)


def columns(rows: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, scores, weights = np.array(rows).T
    return labels, scores / 5, weights


def pairs(labels, scores, weights) -> float | None:
    """The AUC as it is defined: every pair of an unfaithful and a faithful answer."""
    won = total = 0.0
    for label, score, weight in zip(labels, scores, weights, strict=True):
        for other, lower, times in zip(labels, scores, weights, strict=True):
            if label == 1 and other == 0:
                won += weight * times * ((score > lower) + 0.5 * (score == lower))
                total += weight * times
    return won / total if total else None


@given(ROWS)
def test_the_auc_counts_pairs_and_ties_half(rows):
    labels, scores, weights = columns(rows)
    assert auc(labels, scores, weights) == pytest.approx(pairs(labels, scores, weights))
    assert auc(labels, scores) == pytest.approx(pairs(labels, scores, np.ones(len(rows))))


def test_an_auc_needs_both_labels():
    assert auc(np.array([1, 1]), np.array([0.1, 0.2])) is None
    assert auc_interval(np.array([1, 1]), np.array([0.1, 0.2]), np.array([0, 1])) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(60):
        labels = rng.integers(0, 2, 120)
        scores = rng.normal(labels * 1.0)  # AUC of two normal distributions, a deviation apart: 0.7602
        low, high = auc_interval(labels, scores, np.arange(120), resamples=200)
        inside += low <= 0.7602 <= high
    assert inside >= 51


def test_rows_of_one_source_make_the_interval_wider():
    rng = np.random.default_rng(2)
    labels, noise = rng.integers(0, 2, 30), rng.normal(size=30)
    copies = np.repeat(np.arange(30), 10)  # every answer ten times
    labels, scores = labels[copies], (labels + noise)[copies]
    by_row = auc_interval(labels, scores, np.arange(300), resamples=300)
    by_group = auc_interval(labels, scores, copies, resamples=300)
    assert by_group[1] - by_group[0] > 2 * (by_row[1] - by_row[0])


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_within_0_and_1(counts):
    part, whole = counts
    low, high = wilson(part, whole)
    assert 0 <= low <= part / whole + 1e-12
    assert part / whole - 1e-12 <= high <= 1


def test_wilson_as_published():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)  # Agresti and Coull 1998: z² / (n + z²)
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_the_brier_score_is_the_mean_squared_error():
    assert brier(np.array([1, 0]), np.array([0.8, 0.4])) == pytest.approx((0.04 + 0.16) / 2)


@given(ROWS)
def test_bins_hold_every_row_once_in_order(rows):
    labels, scores, _ = columns(rows)
    bins = reliability(labels, scores)
    assert sum(b.rows for b in bins) == len(rows)
    assert sum(b.unfaithful for b in bins) == labels.sum()
    assert [b.mean for b in bins] == sorted({b.mean for b in bins})
    assert sum(b.mean * b.rows for b in bins) == pytest.approx(scores.sum())


def test_many_rows_make_ten_equal_bins():
    scores = np.linspace(0, 1, 1000)
    assert [b.rows for b in reliability(np.zeros(1000, dtype=int), scores)] == [100] * 10
