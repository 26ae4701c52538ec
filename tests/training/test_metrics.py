from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from groundwire.training import metrics
from groundwire.training.data import LabelledExample, read_labelled


def example(label, response, *, prompt="the cat sat on the mat", group="g", generator="m"):
    return LabelledExample("i", [{"role": "user", "content": prompt}], response, label, None, group, generator, "d")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10), st.booleans()), min_size=2, max_size=60))
def test_figures_equal_sklearn(rows):
    labels, tenths, flagged = (np.array(column, int) for column in zip(*rows, strict=True))
    scores = tenths / 10  # ties, and both ends
    if 0 < labels.sum() < len(labels):
        assert metrics.auc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, scores))
        assert metrics.balanced_accuracy(labels, flagged) == pytest.approx(sk.balanced_accuracy_score(labels, flagged))
    else:
        assert metrics.auc(labels, scores) is None
    assert metrics.f1(labels, flagged) == pytest.approx(sk.f1_score(labels, flagged, zero_division=0))
    assert metrics.brier(labels, scores) == pytest.approx(sk.brier_score_loss(labels, scores, labels=[0, 1]))


def test_interval_equals_drawing_groups_one_by_one():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 3)
    labels = rng.integers(0, 2, 75)
    scores = np.round(labels + rng.normal(size=75), 1)
    draws = np.random.default_rng(7).integers(25, size=(100, 25))
    rows = [np.concatenate([np.flatnonzero(groups == g) for g in draw]) for draw in draws]
    expected = sorted(sk.roc_auc_score(labels[r], scores[r]) for r in rows)
    got = metrics.auc_interval(labels, scores, groups, seed=7, draws=100)
    assert got == pytest.approx((expected[2], expected[97]))


def test_interval_is_seeded_and_leaves_out_draws_of_one_label():
    labels, scores, groups = np.array([0, 1, 1]), np.array([0.1, 0.5, 0.4]), np.array(["a", "b", "c"])
    assert metrics.auc_interval(labels, scores, groups) == (1.0, 1.0)
    assert metrics.auc_interval(labels[1:], scores[1:], groups[1:]) is None


def test_within_generator_averages_those_with_five_rows_of_each_label():
    labels = np.r_[[0] * 5, [1] * 5, [0] * 5, [1] * 5, [0] * 4, [1] * 9]
    scores = np.r_[np.arange(10), -np.arange(10), np.arange(13)].astype(float)
    generators = np.repeat(["up", "down", "small"], [10, 10, 13])
    assert metrics.auc_within_generator(labels, scores, generators) == 0.5
    assert metrics.auc_within_generator(labels[20:], scores[20:], generators[20:]) is None


def test_ece_is_the_weighted_gap_of_ten_bins():
    scores, labels = np.array([0.0, 0.05, 0.95, 1.0]), np.array([0, 1, 1, 1])
    assert metrics.ece(labels, scores) == pytest.approx((abs(1 - 0.05) + abs(2 - 1.95)) / 4)


def test_debiased_ece_of_calibrated_scores_is_nought_on_average_where_the_plain_one_is_not():
    """The plain l2 estimate grows as rows become few; the debiased one does not (its square is unbiased)."""
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(300):
        scores = rng.random(80)
        labels = (rng.random(80) < scores).astype(int)
        bins = metrics.reliability(labels, scores)
        plain.append(sum(b.count * (b.mean_score - b.unfaithful) ** 2 for b in bins) / 80)
        noise = sum(b.count * b.unfaithful * (1 - b.unfaithful) / (b.count - 1) for b in bins) / 80
        debiased.append(plain[-1] - noise)
        assert metrics.debiased_ece(labels, scores) == pytest.approx(np.sqrt(max(0, debiased[-1])))
    assert np.mean(plain) > 0.015
    assert abs(np.mean(debiased)) < 0.001


def test_debiased_ece_finds_a_known_gap():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.3, 0.7, 50_000)
    labels = (rng.random(50_000) < scores + 0.2).astype(int)
    assert metrics.debiased_ece(labels, scores) == pytest.approx(0.2, abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 30)), min_size=1, max_size=90), st.integers(1, 12))
def test_reliability_bins_hold_every_row_once_and_part_no_equal_scores(rows, bins):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    scores = scores / 30
    found = metrics.reliability(labels, scores, bins)
    assert 1 <= len(found) <= bins
    assert sum(b.count for b in found) == len(rows)
    assert sum(b.count * b.unfaithful for b in found) == pytest.approx(labels.sum())
    assert sum(b.count * b.mean_score for b in found) == pytest.approx(scores.sum())
    means = [b.mean_score for b in found]
    assert means == sorted(means)
    assert all(0 <= b.low <= b.unfaithful + 1e-9 and b.unfaithful - 1e-9 <= b.high <= 1 for b in found)
    start = 0
    for b in found:  # the bins are runs of the sorted scores, cut where these change
        part = np.sort(scores)[start : start + b.count]
        assert part.mean() == pytest.approx(b.mean_score)
        assert start == 0 or np.sort(scores)[start - 1] < part[0]
        start += b.count


def test_reliability_has_wilson_intervals():
    found = metrics.reliability(np.r_[np.ones(8, int), np.zeros(2, int)], np.full(10, 0.5))
    assert len(found) == 1
    assert (found[0].low, found[0].high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # statsmodels' "wilson"


def noisy(rng, labels, noise):
    return labels + rng.normal(0, noise, len(labels))


def test_a_paired_interval_is_narrower_than_what_two_intervals_suggest():
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(60), 4), rng.integers(0, 2, 240)
    a = noisy(rng, labels, 1.5)
    b = a + rng.normal(0, 0.2, 240)  # nearly the same score
    found = metrics.paired_difference(labels, a, b, groups)
    assert found.value == pytest.approx(sk.roc_auc_score(labels, a) - sk.roc_auc_score(labels, b))
    low, high = metrics.auc_interval(labels, a, groups)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < (high - low) / 2
    other = metrics.paired_difference(labels, b, a, groups)
    assert (other.value, other.low, other.high) == pytest.approx((-found.value, -found.high, -found.low), abs=0.002)
    assert metrics.paired_difference(labels, a, a, groups) == metrics.Difference(0.0, 0.0, 0.0)


def test_a_paired_interval_equals_drawing_groups_one_by_one():
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(25), 3), rng.integers(0, 2, 75)
    a, b = noisy(rng, labels, 1), noisy(rng, labels, 2)
    draws = np.random.default_rng(7).integers(25, size=(100, 25))
    rows = [np.concatenate([np.flatnonzero(groups == g) for g in draw]) for draw in draws]
    expected = sorted(sk.roc_auc_score(labels[r], a[r]) - sk.roc_auc_score(labels[r], b[r]) for r in rows)
    found = metrics.paired_difference(labels, a, b, groups, seed=7, draws=100)
    assert (found.low, found.high) == pytest.approx((expected[2], expected[97]))


def test_the_pooled_difference_is_the_mean_of_the_data_sets_and_draws_shared_groups_together():
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(30), 4), rng.integers(0, 2, 120)
    a, b = noisy(rng, labels, 1), noisy(rng, labels, 2)
    alone = metrics.paired_difference(labels, a, b, groups, seed=3)
    twice = [np.tile(column, 2) for column in (labels, a, b, groups)]
    names = np.repeat(["one", "two"], 120)
    shared = metrics.paired_difference(*twice, names, seed=3)
    assert (shared.value, shared.low, shared.high) == pytest.approx((alone.value, alone.low, alone.high))
    twice[3] = np.r_[groups, groups + 30]  # as if the copies were of other documents: the mean is surer
    apart = metrics.paired_difference(*twice, names, seed=3)
    assert apart.value == pytest.approx(alone.value)
    assert apart.high - apart.low < 0.85 * (alone.high - alone.low)
    sizes = np.r_[np.arange(40), np.arange(120)]  # a third of one data set, all of the other
    names = np.repeat(["one", "two"], [40, 120])
    mixed = metrics.paired_difference(labels[sizes], a[sizes], b[sizes], groups[sizes], names)
    own = [metrics.paired_difference(labels[:n], a[:n], b[:n], groups[:n]).value for n in (40, 120)]
    assert mixed.value == pytest.approx(np.mean(own))


def test_a_difference_that_the_rows_do_not_define_is_none():
    labels, scores, groups = np.array([0, 1, 1]), np.array([0.1, 0.5, 0.4]), np.array(["a", "b", "c"])
    assert metrics.paired_difference(labels[1:], scores[1:], scores[1:], groups[1:]) is None
    assert metrics.paired_difference(labels, scores, scores, groups, np.array(["x", "x", "y"])) is None


def test_absence_counts():
    prompt = "The cat sat on the mat."
    assert metrics.absent_words(prompt, "A cat sat; a dog did") == 4
    assert metrics.absent_bigrams(prompt, "the cat sat on a dog and the mat") == 4  # on a, a dog, dog and, and the
    assert metrics.absent_bigrams(prompt, "dog") == metrics.absent_words(prompt, "") == 0


def test_figures_put_priors_beside_the_detector():
    rows = [example(0, "the cat", group=str(i)) for i in range(6)]
    rows += [example(1, "a dog ran home", group=str(i), generator="n") for i in range(6)]
    found = metrics.figures(rows, np.r_[np.zeros(6), np.ones(6)], 0.5)
    assert found["auc"] == found["balanced_accuracy"] == found["f1"] == 1.0
    assert (found["rows"], found["unfaithful"], found["groups"]) == (12, 6, 6)
    assert found["auc_within_generator"] is None
    assert found["priors"] == {"length": 1.0, "generator": 1.0, "absent_words": 1.0, "absent_bigrams": 1.0}


@pytest.mark.data
def test_priors_of_the_development_data(data_folder):
    """Length and generator as the independent judge of the data computes them."""
    found = metrics.priors(read_labelled(data_folder / "ragtruth-qa.jsonl"))
    assert found["length"] == pytest.approx(0.7472, abs=1e-4)
    assert found["generator"] == pytest.approx(0.7193, abs=1e-4)
    assert found["absent_words"] > 0.8
