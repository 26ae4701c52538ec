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
