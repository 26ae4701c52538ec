from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from groundwire.errors import InputError
from groundwire.training.calibrate import calibrate, choose_threshold, platt
from groundwire.training.metrics import balanced_accuracy


def test_platt_recovers_the_scale_and_shift_that_made_the_labels():
    rng = np.random.default_rng(0)
    logits = rng.normal(3, 40, size=20_000)
    labels = (rng.random(20_000) < expit(0.05 * logits - 1)).astype(int)
    scale, shift = platt(logits, labels)
    assert scale == pytest.approx(0.05, rel=0.05)
    assert shift == pytest.approx(-1, abs=0.06)
    assert expit(scale * logits + shift).mean() == pytest.approx(labels.mean(), abs=1e-3)


@pytest.mark.parametrize("logits", [np.array([3.0, 2.0, 1.0, 0.0]), np.full(4, 2.0)])
def test_logits_that_know_nothing_give_the_prevalence(logits):
    found = calibrate(logits, np.array([0, 0, 1, 1]))
    assert found.scale > 0
    np.testing.assert_allclose(found.scores(logits), 0.5, atol=0.01)


def test_separable_logits_stay_finite():
    found = calibrate(np.array([-1.0, -2.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert np.isfinite([found.scale, found.shift]).all()
    assert 0 < found.thresholds["balanced_accuracy"] < 1
    assert found.prevalence == 0.5


def test_thresholds_by_target():
    labels = np.array([0] * 10 + [1] * 10)
    scores = np.r_[np.linspace(0.05, 0.5, 10), np.linspace(0.42, 0.87, 10)]
    best = choose_threshold(scores, labels, "balanced_accuracy")
    reached = [balanced_accuracy(labels, scores >= t) for t in np.linspace(0, 1, 1001)]
    assert balanced_accuracy(labels, scores >= best) == max(reached)
    for limit in (0, 0.05, 0.1, 0.3, 1):
        threshold = choose_threshold(scores, labels, f"fpr<={limit}")
        assert (scores[labels == 0] >= threshold).mean() <= limit
        lower = np.max(scores[scores < threshold], initial=-1)  # the next lower cut breaks the limit
        assert lower < 0 or (scores[labels == 0] >= lower).mean() > limit
    assert choose_threshold(np.ones(20), labels, "fpr<=0") > 1


def test_unusable_input_is_refused():
    labels = np.array([0, 1])
    with pytest.raises(InputError, match="threshold target 'f1'"):
        choose_threshold(np.array([0.1, 0.2]), labels, "f1")
    with pytest.raises(InputError, match="NaN"):
        calibrate(np.array([np.nan, 1.0]), labels)
    with pytest.raises(InputError, match="both 0 and 1"):
        calibrate(np.array([0.0, 1.0]), np.ones(2, int))
