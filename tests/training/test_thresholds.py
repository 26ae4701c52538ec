from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from groundwire.errors import InputError
from groundwire.training.metrics import balanced_accuracy
from groundwire.training.thresholds import choose_threshold, risk_bound, row_weights, shortage

LIMITS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@st.composite
def scored_rows(draw):
    """Scores with ties and both ends, labels, and groups that are sometimes of several data sets."""
    rows = st.tuples(st.integers(0, 20), st.integers(0, 1), st.integers(0, 30), st.integers(0, 2))
    scores, labels, groups, datasets = zip(*draw(st.lists(rows, min_size=4, max_size=80)), strict=True)
    labels = np.array([0, 1, *labels[2:]])
    return np.array(scores) / 20, labels, np.array(groups), np.array(datasets)


def loss_by_hand(scores, labels, groups, threshold):
    """Mean over groups of the share of their faithful rows that are flagged, and the number of groups."""
    names = np.unique(groups[labels == 0])
    losses = [np.mean(scores[(groups == name) & (labels == 0)] > threshold) for name in names]
    return float(np.mean(losses)), len(names)


@given(scored_rows(), st.sampled_from(LIMITS))
def test_the_threshold_is_the_lowest_that_keeps_the_condition(rows, limit):
    scores, labels, groups, _ = rows
    threshold = choose_threshold(scores, labels, groups, f"fpr<={limit:g}")
    loss, n = loss_by_hand(scores, labels, groups, threshold)
    assert threshold == 1 or (n * loss + 1) / (n + 1) <= limit + 1e-9
    lower = np.max(scores[scores < threshold], initial=-1.0)
    if lower >= 0:  # the next lower cut flags one more score
        loss, n = loss_by_hand(scores, labels, groups, np.nextafter(lower, -1))
        assert (n * loss + 1) / (n + 1) > limit - 1e-9


@given(scored_rows(), st.booleans())
def test_thresholds_fall_as_the_limit_rises_and_never_pass_one(rows, several):
    scores, labels, groups, datasets = rows
    found = [
        choose_threshold(scores, labels, groups, f"fpr<={limit:g}", datasets=datasets if several else None)
        for limit in LIMITS
    ]
    assert found == sorted(found, reverse=True)
    assert max(found) <= 1
    assert found[0] == 1


@given(scored_rows())
def test_the_bound_never_rises_with_the_threshold(rows):
    scores, labels, groups, datasets = rows
    bound = risk_bound(np.linspace(0, 1, 101), scores, labels, groups, datasets)
    assert (np.diff(bound) <= 1e-12).all()


def new_groups(rng, n, *, hardness=1.0):
    """Faithful rows: one to eight per group, alike within a group."""
    sizes = rng.integers(1, 9, n)
    groups = np.repeat(np.arange(n), sizes)
    return 1 / (1 + np.exp(-rng.normal(size=len(groups)) - rng.normal(0, hardness, n)[groups])), groups


@pytest.mark.parametrize(("limit", "n"), [(0.1, 30), (0.2, 12), (0.05, 60)])
def test_the_limit_holds_for_new_groups_on_average(limit, n):
    """Exchangeable groups, hard ones among them; rows of a group are far from independent."""
    rng = np.random.default_rng(n)
    losses = []
    for _ in range(200):
        scores, groups = new_groups(rng, n, hardness=2.0)
        unfaithful = rng.random(10)
        threshold = choose_threshold(
            np.r_[scores, unfaithful], np.r_[np.zeros(len(scores), int), np.ones(10, int)],
            np.r_[groups, np.arange(10)], f"fpr<={limit}",
        )  # fmt: skip
        scores, groups = new_groups(rng, 100, hardness=2.0)
        losses.append(loss_by_hand(scores, np.zeros(len(scores), int), groups, threshold)[0])
    error = np.std(losses) / np.sqrt(len(losses))
    assert np.mean(losses) <= limit + 3 * error
    assert np.mean(losses) >= limit - 2 / (n + 1) - 3 * error  # and it is no stricter than it must be


def test_with_several_data_sets_the_limit_holds_for_a_group_of_any_one_of_them():
    """One data set is large and easy, the other small and hard: pooling their rows would flag far too much of it."""
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(150):
        easy, hard = new_groups(rng, 80, hardness=0.2), new_groups(rng, 40, hardness=3.0)
        scores = np.r_[easy[0] * 0.5, hard[0], 0.9]
        labels = np.r_[np.zeros(len(scores) - 1, int), 1]
        datasets = np.repeat(["easy", "hard"], [len(easy[0]), len(hard[0]) + 1])
        groups = np.r_[easy[1], 100 + hard[1], 999]
        threshold = choose_threshold(scores, labels, groups, "fpr<=0.1", datasets=datasets)
        easy, hard = new_groups(rng, 100, hardness=0.2), new_groups(rng, 100, hardness=3.0)
        of_each = [
            loss_by_hand(scores, np.zeros(len(scores), int), groups, threshold)[0]
            for scores, groups in ((easy[0] * 0.5, easy[1]), hard)
        ]
        losses.append(np.mean(of_each))
    assert np.mean(losses) <= 0.1 + 3 * np.std(losses) / np.sqrt(len(losses))


@pytest.mark.parametrize(("limit", "enough"), [("fpr<=0.05", 19), ("fpr<=0.1", 9), ("fpr<=20%", 4)])
def test_too_few_groups_flag_nothing_and_say_how_many_are_needed(limit, enough):
    for n in (enough - 1, enough):
        scores, labels = np.r_[np.linspace(0.1, 0.4, n), 0.9], np.r_[np.zeros(n, int), 1]
        threshold = choose_threshold(scores, labels, np.arange(n + 1), limit)
        note = shortage(labels, np.arange(n + 1), limit)
        assert (threshold < 0.9) == (n == enough)
        assert (note is None) == (n == enough)
        if n == enough - 1:
            assert f"{n} groups hold faithful rows, and at least {enough} are needed" in note


def test_no_number_of_groups_is_enough_for_no_false_alarm_at_all():
    labels = np.r_[np.zeros(50, int), 1]
    assert "no number is enough" in shortage(labels, np.arange(51), "fpr<=0")
    assert shortage(labels, np.arange(51), "balanced_accuracy") is None


def test_a_shortage_counts_each_data_set():
    labels, groups = np.array([0] * 30 + [0] * 3 + [1]), np.arange(34)
    note = shortage(labels, groups, "fpr<=0.05", np.array(["a"] * 30 + ["b"] * 4))
    assert "30 and 3 groups of each data set" in note


def calibrated_rows(rng, n):
    scores = expit(rng.normal(-1.2, 1.3, n))
    return scores, (rng.random(n) < scores).astype(int)


def test_the_share_of_unfaithful_rows_is_the_best_threshold_for_balanced_accuracy():
    scores, labels = calibrated_rows(np.random.default_rng(0), 60_000)
    threshold = choose_threshold(scores, labels, np.arange(60_000), "Balanced accuracy")
    assert threshold == pytest.approx(labels.mean())
    best = max(balanced_accuracy(labels, scores > t) for t in np.linspace(0, 1, 201))
    assert balanced_accuracy(labels, scores > threshold) > best - 0.003


def test_and_from_few_rows_it_does_better_on_others_than_the_best_on_those_few():
    rng = np.random.default_rng(0)
    others = calibrated_rows(rng, 5_000)
    reached, tuned = [], []
    for _ in range(60):
        scores, labels = calibrated_rows(rng, 60)
        threshold = choose_threshold(scores, labels, np.arange(60), "balanced_accuracy")
        best = max(np.linspace(0, 1, 101), key=lambda t: balanced_accuracy(labels, scores > t))
        for found, t in ((reached, threshold), (tuned, best)):
            found.append(balanced_accuracy(others[1], others[0] > t))
    assert np.mean(reached) > np.mean(tuned) + 0.005
    assert np.std(reached) < np.std(tuned) / 2


def test_ten_copies_of_a_data_set_move_no_threshold():
    rng = np.random.default_rng(3)
    scores, labels, groups = rng.random(60), rng.integers(0, 2, 60), np.arange(60) // 2
    datasets = np.repeat(["a", "b"], 30)
    copied = np.r_[np.tile(np.arange(30), 10), np.arange(30, 60)]
    for target in ("balanced_accuracy", "fpr<=0.2"):
        once = choose_threshold(scores, labels, groups, target, datasets=datasets)
        again = choose_threshold(scores[copied], labels[copied], groups[copied], target, datasets=datasets[copied])
        assert once == again


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.1, 10)), min_size=1, max_size=40))
def test_every_data_set_weighs_the_same(rows):
    datasets, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = row_weights(len(rows), datasets, weights)
    assert found.mean() == pytest.approx(1)
    totals = [found[datasets == name].sum() for name in np.unique(datasets)]
    assert totals == pytest.approx([totals[0]] * len(totals))
    first = datasets == datasets[0]
    assert found[first] / found[first][0] == pytest.approx(weights[first] / weights[first][0])
    assert row_weights(len(rows)) == pytest.approx(np.ones(len(rows)))


def test_unusable_weights_and_targets_are_refused():
    with pytest.raises(InputError, match="threshold target 'f1'"):
        choose_threshold(np.array([0.1, 0.2]), np.array([0, 1]), np.arange(2), "f1")
    for weights in ([1.0, -1.0], [1.0, np.nan]):
        with pytest.raises(InputError, match="row weights"):
            row_weights(2, None, np.array(weights))
    with pytest.raises(InputError, match="weigh 0"):
        row_weights(2, np.array(["a", "b"]), np.array([1.0, 0.0]))


def test_small_data_sets_count_as_one():
    """Three of 40 groups each could promise no limit of 1 %, all 120 can; one that is large enough stays by itself."""
    groups, labels = np.arange(240), np.arange(240) % 2
    scores = np.linspace(0.1, 0.4, 240) + 0.5 * labels
    datasets = np.repeat(["a", "b", "c"], 80)
    assert choose_threshold(scores[:80], labels[:80], groups[:80], "fpr<=0.01", datasets=datasets[:80]) == 1.0
    assert shortage(labels[:80], groups[:80], "fpr<=0.01", datasets[:80]) is not None
    threshold = choose_threshold(scores, labels, groups, "fpr<=0.01", datasets=datasets)
    assert scores[labels == 0].max() < threshold < scores[labels == 1].min()
    assert shortage(labels, groups, "fpr<=0.01", datasets) is None
    # At 5 % each has enough groups, so nothing is pooled: each is kept alike.
    assert choose_threshold(scores, labels, groups, "fpr<=0.05", datasets=datasets) == choose_threshold(
        scores, labels, groups, "fpr<=0.05", datasets=np.repeat(["c", "a", "b"], 80)
    )
