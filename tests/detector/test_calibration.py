"""Log-odds and probabilities, thresholds by name, and the shift to another prevalence."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.calibration import log_odds, normal_target, parse_limit, prevalence_shift, sigmoid, threshold_for
from groundwire.errors import InputError

SHARES = st.floats(0.001, 0.999)


@given(st.floats(-30, 30))
def test_log_odds_undoes_sigmoid(logit):
    assert log_odds(sigmoid(logit)) == pytest.approx(logit, abs=1e-2 if logit > 20 else 1e-6)


@given(SHARES)
def test_sigmoid_undoes_log_odds(share):
    assert sigmoid(log_odds(share)) == pytest.approx(share)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_sigmoid_rises_and_never_overflows(a, b):
    low, high = sorted((a, b))
    assert 0 <= sigmoid(low) <= sigmoid(high) <= 1
    assert sigmoid(a) + sigmoid(-a) == pytest.approx(1)


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 1.1, math.nan])
def test_what_has_no_odds_is_refused(probability):
    with pytest.raises(InputError, match="between 0 and 1"):
        log_odds(probability)


def test_no_prevalence_is_no_shift():
    assert prevalence_shift(0.3, None) == 0.0


@given(SHARES, SHARES, SHARES)
def test_shifts_add_up_and_there_and_back_is_nothing(a, b, c):
    assert prevalence_shift(a, a) == 0
    assert prevalence_shift(a, b) + prevalence_shift(b, a) == pytest.approx(0)
    assert prevalence_shift(a, b) + prevalence_shift(b, c) == pytest.approx(prevalence_shift(a, c))


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 50), st.integers(1, 50))
def test_the_shift_is_bayes_rule_on_counts(hits, false_alarms, times_bad, times_good):
    """Of 1000 bad and 1000 good answers so many look alike; then each kind becomes so many times as frequent."""
    before = hits / (hits + false_alarms)
    after = hits * times_bad / (hits * times_bad + false_alarms * times_good)
    shift = prevalence_shift(0.5, times_bad / (times_bad + times_good))
    if 0 < before < 1:
        assert sigmoid(log_odds(before) + shift) == pytest.approx(after)


def test_a_threshold_is_found_by_its_target():
    thresholds = {"f1": 0.3, "balanced_accuracy": 0.5}
    assert threshold_for(thresholds, "f1") == 0.3
    with pytest.raises(InputError, match=r"'recall'\n.*'f1', 'balanced_accuracy'\n.*target"):
        threshold_for(thresholds, "recall")


THRESHOLDS = {"balanced_accuracy": 0.3, "fpr<=0.01": 1.0, "fpr<=0.02": 0.7, "fpr<=0.05": 0.6, "fpr<=0.2": 0.4}


@pytest.mark.parametrize(
    ("spelling", "wanted"),
    [
        ("fpr<=0.05", 0.6), ("fpr<=5%", 0.6), ("fpr <= .05", 0.6), (" FPR ≤ 5.0 % ", 0.6), ("fpr<0.050", 0.6),
        ("fpr<=.2", 0.4), ("balanced-accuracy", 0.3), ("Balanced accuracy ", 0.3),
    ],
)  # fmt: skip
def test_a_target_may_be_spelt_in_any_way(spelling, wanted):
    assert threshold_for(THRESHOLDS, spelling) == wanted


@given(st.integers(0, 1000))
def test_a_limit_as_a_share_and_in_per_cent_is_the_same(tenths):
    share = tenths / 1000
    assert normal_target(f"fpr <= {share}") == normal_target(f"fpr<={tenths / 10}%")
    assert parse_limit(normal_target(f"fpr<={share}")) == pytest.approx(share)


@pytest.mark.parametrize("middle", ["1" * 10**6, "1" + " " * 10**6, " " * 10**6, "1." + "1" * 10**6, ""])
def test_a_long_target_takes_linear_time(middle):
    """A quadratic expression would take hours."""
    assert parse_limit(f"fpr<={middle}x") is None
    assert parse_limit(" " * 10**6 + middle) is None


@pytest.mark.parametrize(
    "target", ["recall", "fpr", "fpr<=", "fpr>=0.05", "fpr<=1.5", "fpr<=x", "fpr<=200%", "tfpr<=0.1"]
)
def test_what_is_no_limit_has_none(target):
    assert parse_limit(target) is None
    with pytest.raises(InputError, match=r"(?s)no threshold for target.*'fpr<=0.05'"):
        threshold_for(THRESHOLDS, target)


def test_an_unknown_limit_lists_what_there_is_and_names_the_nearest_that_keeps_it():
    with pytest.raises(InputError, match=r"(?s)'fpr<=0.1'.*'fpr<=0.02', 'fpr<=0.05'.*; 'fpr<=0.05' is the nearest"):
        threshold_for(THRESHOLDS, "fpr<=0.1")
    with pytest.raises(InputError) as found:  # the only stricter one flags nothing
        threshold_for(THRESHOLDS, "fpr<=0.015")
    assert "nearest" not in str(found.value)


def test_a_threshold_that_flags_nothing_is_no_clean_bill():
    with pytest.raises(InputError, match=r"(?s)flags nothing.*one of 'balanced_accuracy', 'fpr<=0.02'.*more groups"):
        threshold_for(THRESHOLDS, "fpr<=1%")
    with pytest.raises(InputError, match="flags nothing"):
        threshold_for({"fpr<=0.05": math.nextafter(1, 2)}, "fpr<=0.05")
