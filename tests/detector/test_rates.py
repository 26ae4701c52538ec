"""The interval holds the truth as often as it says, whatever the detector is worth and however rows were drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from groundwire.errors import InputError
from groundwire.rates import Evidence, Rate, check_sources
from groundwire.sample.draw import draw

TRIALS = 200
ROWS = 1500
LABELS = 200
# 95 % less three standard errors of a share of TRIALS
LEAST = 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def logistic(values):
    return 1 / (1 + np.exp(-values))


def population(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of all rows, one in five unfaithful or so."""
    groups = np.repeat(np.arange(ROWS // 6), 6) if kind == "clustered" else np.arange(ROWS)
    lean = 2.0 * rng.normal(size=groups.max() + 1)[groups] if kind == "clustered" else rng.normal(size=ROWS)
    odds = -2.0 + 1.5 * lean
    labels = (rng.random(ROWS) < logistic(odds)).astype(int)
    seen = {
        "useless": rng.normal(size=ROWS),
        "biased": odds + 2.5,  # far too many look unfaithful
        "good": -3.0 + 6.0 * labels + rng.normal(size=ROWS),
    }.get(kind, odds + 0.5 * rng.normal(size=ROWS))
    return labels, logistic(seen), groups


def estimated(labels, scores, groups, chosen, weights=None) -> Rate:
    evidence = Evidence()
    weight = dict(zip(chosen.tolist(), np.ones(len(chosen)) if weights is None else weights, strict=True))
    for i in range(len(labels)):
        if i in weight:
            own = None if weights is None else float(weight[i])
            evidence.add(float(scores[i]), int(labels[i]), group=int(groups[i]), weight=own)
        else:
            evidence.add(float(scores[i]))
    return evidence.rate()


def trial(kind: str, rng: np.random.Generator) -> tuple[Rate, float]:
    labels, scores, groups = population(kind, rng)
    weights = None
    if kind == "weighted":
        drawn = draw(scores, LABELS, seed=int(rng.integers(2**31)))
        chosen, weights = drawn.rows, np.array([1 / drawn.strata[m].probability for m in drawn.member])
    elif kind == "unequal":  # Poisson sampling that seeks out high scores
        chance = np.minimum(1, LABELS * (0.2 + scores) / (0.2 + scores).sum())
        chosen = np.flatnonzero(rng.random(ROWS) < chance)
        weights = 1 / chance[chosen]
    elif kind == "clustered":  # whole prompts are labelled
        chosen = np.flatnonzero(np.isin(groups, rng.choice(groups.max() + 1, LABELS // 6, replace=False)))
    else:
        chosen = rng.choice(ROWS, LABELS, replace=False)
    return estimated(labels, scores, groups, chosen, weights), float(labels.mean())


@pytest.mark.parametrize("kind", ["useless", "biased", "good", "calibrated", "clustered", "weighted", "unequal"])
def test_the_interval_covers(kind):
    rng = np.random.default_rng(7)
    found = [trial(kind, rng) for _ in range(TRIALS)]
    covered = np.mean([rate.low <= truth <= rate.high for rate, truth in found])
    width = np.mean([(rate.high - rate.low) / (rate.alone[1] - rate.alone[0]) for rate, _ in found])
    bias = np.mean([rate.value - truth for rate, truth in found])
    print(f"{kind}: covered {covered:.3f}, width of labels alone {width:.3f}, bias {bias:+.4f}")
    assert covered >= LEAST
    assert abs(bias) < 0.01
    assert width < {"good": 0.4, "useless": 1.01}.get(kind, 0.99)


def test_rows_of_one_group_taken_as_independent_would_not_cover():
    """The clustered regime is a test: without groups the interval is too narrow."""
    rng, covered = np.random.default_rng(7), []
    for _ in range(TRIALS):
        labels, _, groups = population("clustered", rng)
        chosen = np.flatnonzero(np.isin(groups, rng.choice(groups.max() + 1, LABELS // 6, replace=False)))
        rate = estimated(labels, np.full(ROWS, 0.5), np.arange(ROWS), chosen)
        covered.append(rate.low <= labels.mean() <= rate.high)
    assert np.mean(covered) < LEAST


def test_the_mean_score_of_a_biased_detector_is_corrected():
    labels, scores, groups = population("biased", np.random.default_rng(1))
    rate = estimated(labels, scores, groups, np.arange(0, ROWS, 10))
    assert scores.mean() > 2 * labels.mean()
    assert rate.low < labels.mean() < rate.high


def test_equal_scores_leave_the_labels_alone():
    evidence = Evidence()
    for i in range(100):
        evidence.add(0.5, int(i < 20))
    rate = evidence.rate()
    assert (rate.value, rate.power, rate.labels, rate.groups) == (pytest.approx(0.2), 0.0, 100, 100)
    assert (rate.low, rate.high) == rate.alone


def test_weights_of_any_scale_give_the_same():
    rng = np.random.default_rng(2)
    labels, scores, groups = population("calibrated", rng)
    chosen, weights = rng.choice(ROWS, 200, replace=False), rng.uniform(1, 5, 200)
    one = estimated(labels, scores, groups, chosen, weights)
    other = estimated(labels, scores, groups, chosen, weights * 1000)
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(i % 2, i) for i in range(39)], "39 labelled rows"),
        ([(i % 2, i % 19) for i in range(100)], "19 groups"),
        ([(int(i < 7), i) for i in range(100)], "7 labels of the rarer kind"),
        ([(int(i >= 7), i) for i in range(100)], "7 labels of the rarer kind"),
    ],
)
def test_too_few_labels_are_refused(rows, said):
    evidence = Evidence()
    for label, group in rows:
        evidence.add(0.3, label, group=group)
    with pytest.raises(InputError, match=said):
        evidence.rate()


def test_weights_of_some_rows_only_are_refused():
    evidence = Evidence()
    for i in range(100):
        evidence.add(0.3, i % 2, weight=2.0 if i < 50 else None)
    with pytest.raises(InputError, match="50 of 100 labelled rows have a label_weight"):
        evidence.rate()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(InputError, match="label weight"):
        Evidence().add(0.3, 1, weight=weight)


def test_labels_of_one_source_only_are_refused():
    a, b, rare = Evidence(), Evidence(), Evidence()
    for i in range(500):
        a.add(0.3, i % 2 if i < 100 else None)
        b.add(0.3)
    rare.add(0.3)
    check_sources({"a": a, "rare": rare})  # chance may well have missed it
    with pytest.raises(InputError, match="no label of 'b', which has 500 of 1000 rows"):
        check_sources({"a": a, "b": b})


def test_memory_grows_with_labelled_groups_only():
    evidence = Evidence()
    for i in range(5000):
        evidence.add(0.3, i % 2 if i < 1000 else None, group=i % 30)
    assert len(evidence._groups) == 30
