from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from groundwire.errors import InputError
from groundwire.training.calibrate import TARGETS, Prior, calibrate, platt, shrunk


def drawn(n, scale, shift, seed=0, *, mean=0.0, spread=1.5):
    """Logits and labels whose log-odds are `scale * logit + shift`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(mean, spread, size=n)
    return logits, (rng.random(n) < expit(scale * logits + shift)).astype(int)


def test_platt_recovers_the_scale_and_shift_that_made_the_labels():
    logits, labels = drawn(20_000, 0.05, -1, mean=3, spread=40)
    scale, shift = platt(logits, labels)
    assert scale == pytest.approx(0.05, rel=0.05)
    assert shift == pytest.approx(-1, abs=0.06)
    assert expit(scale * logits + shift).mean() == pytest.approx(labels.mean(), abs=1e-3)


@pytest.mark.parametrize("logits", [np.array([3.0, 2.0, 1.0, 0.0]), np.full(4, 2.0), np.full(4, 0.1)])
def test_logits_that_know_nothing_give_the_prevalence(logits):
    found = calibrate(logits, np.array([0, 0, 1, 1]), np.arange(4))
    assert found.scale > 0
    np.testing.assert_allclose(found.scores(logits), 0.5, atol=0.01)


@pytest.mark.parametrize("prior", [None, Prior()])
def test_separable_logits_stay_finite(prior):
    found = calibrate(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0, 0, 1, 1]), np.arange(4), prior=prior)
    assert np.isfinite([found.scale, found.shift]).all()
    assert 0 < found.thresholds["balanced_accuracy"] < 1
    assert found.prevalence == 0.5


def test_every_target_has_a_threshold_and_the_unreachable_ones_a_note():
    logits, labels = drawn(120, 1, 0)
    found = calibrate(logits, labels, np.arange(120) // 4)  # 30 groups: enough for 5 %, not for 2 %
    assert tuple(found.thresholds) == TARGETS
    assert [name for name, score in found.thresholds.items() if score == 1] == ["fpr<=0.01", "fpr<=0.02"]
    assert [note.split()[0] for note in found.notes] == ["fpr<=0.01", "fpr<=0.02"]


@pytest.mark.parametrize("prior", [None, Prior()])
@given(times=st.integers(1, 6), seed=st.integers(0, 5))
def test_copies_of_a_row_are_a_weight(prior, times, seed):
    logits, labels = drawn(30, 1, 0.5, seed)
    labels[:2] = 0, 1
    copied = np.r_[np.arange(15), np.repeat(np.arange(15, 30), times)]
    weights = np.r_[np.ones(15), np.full(15, float(times))]
    by_copy = calibrate(logits[copied], labels[copied], copied, targets=(), prior=prior)
    fit = platt if prior is None else lambda *of: shrunk(*of, prior)
    by_weight = fit(logits, labels, weights)
    np.testing.assert_allclose(by_weight, (by_copy.scale, by_copy.shift), rtol=1e-3, atol=1e-3)
    assert by_copy.prevalence == pytest.approx(np.average(labels, weights=weights))


def test_a_large_data_set_does_not_outvote_a_small_one():
    """Two data sets that disagree about the base rate: the scores meet in the middle, whatever their sizes."""
    logits = np.tile([-1.0, 0.0, 1.0], 440)
    datasets = np.repeat(["small", "large"], [120, 1200])
    labels = np.r_[np.tile([1, 1, 1, 1, 1, 0], 20), np.tile([0, 0, 0, 0, 0, 1], 200)]
    balanced = calibrate(logits, labels, np.arange(1320), datasets)
    assert balanced.prevalence == pytest.approx(0.5)
    assert balanced.scores(np.zeros(1))[0] == pytest.approx(0.5, abs=0.01)
    assert calibrate(logits, labels, np.arange(1320)).prevalence < 0.25


def test_few_rows_move_a_calibrated_model_less_than_many():
    found = {}
    for n in (20, 200, 20_000):
        logits, labels = drawn(n, 0.3, 1.0, seed=1)
        found[n] = calibrate(logits, labels, np.arange(n), targets=(), prior=Prior())
    scales = [found[n].scale for n in (20, 200, 20_000)]
    assert scales[1] + 0.1 < scales[0] < 1
    assert found[20_000].scale == pytest.approx(0.3, abs=0.03)
    assert found[20_000].shift == pytest.approx(1.0, abs=0.05)


def test_the_prior_minimises_what_it_says():
    logits, labels = drawn(40, 0.5, 1.0, seed=2, mean=-2)
    scale, shift = shrunk(logits, labels, np.ones(40), Prior(0.4, 0.8))
    mean = logits.mean()

    def cost(log_scale, offset):
        z = np.exp(log_scale) * (logits - mean) + mean + offset
        penalty = (log_scale / 0.4) ** 2 / 2 + (offset / 0.8) ** 2 / 2
        return float((np.logaddexp(0, z) - labels * z).sum() + penalty)

    log_scale, offset = np.log(scale), shift + scale * mean - mean
    best = cost(log_scale, offset)
    assert all(cost(log_scale + a, offset + b) > best for a, b in [(0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)])


def test_a_prior_that_is_sure_changes_nothing():
    logits, labels = drawn(50, 0.2, 2)
    found = calibrate(logits, labels, np.arange(50), targets=(), prior=Prior(1e-4, 1e-4))
    assert (found.scale, found.shift) == pytest.approx((1, 0), abs=1e-3)


def test_unusable_input_is_refused():
    labels, groups = np.array([0, 1]), np.arange(2)
    with pytest.raises(InputError, match="NaN"):
        calibrate(np.array([np.nan, 1.0]), labels, groups)
    with pytest.raises(InputError, match="both 0 and 1"):
        calibrate(np.array([0.0, 1.0]), np.ones(2, int), groups)
    with pytest.raises(InputError, match="one label weigh 0"):
        calibrate(np.array([0.0, 1.0]), labels, groups, weights=np.array([0.0, 1.0]))
