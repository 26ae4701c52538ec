from __future__ import annotations

from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.fake import FakeEngine, fake_detector
from groundwire.errors import InputError
from groundwire.scoring import Pooling
from groundwire.training.calibrate import Calibrated, calibrate
from groundwire.training.data import folds
from groundwire.training.metrics import auc, brier
from groundwire.training.recalibrate import cross_validate, recalibrated, recalibration_curve
from groundwire.types import Example

PROMPT = [{"role": "user", "content": "Passage 1: The Tidewater Bridge opened in 1931. Question: when did it open?"}]
ANSWERS = ("The bridge opened in 1931.", "The bridge opened in 1931, and a king came to see it.", "In 1931?")


def rows(n_groups, scale, shift, *, seed=0, per=4):
    """Logits, labels whose log-odds are `scale * logit + shift`, and groups of which each has its own difficulty."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), per)
    logits = rng.normal(-0.5, 1.4, n_groups * per) + rng.normal(0, 0.5, n_groups)[groups]
    return logits, (rng.random(len(logits)) < expit(scale * logits + shift)).astype(int), groups


@settings(max_examples=25)
@given(st.floats(0.02, 20), st.floats(-5, 5), st.sampled_from(["max", "window"]), st.integers(1, 2))
def test_a_saved_recalibration_scores_as_its_scale_and_shift_say(scale, shift, kind, times):
    """sigmoid(scale * logit + shift), still the sum of its parts, with tokens and spans as they were."""
    before = fake_detector()
    pooling = Pooling(kind, window=3, window_weight=0.7, mean_weight=0.3)
    before.artifact = replace(before.artifact, scorer=replace(before.artifact.scorer, pooling=pooling))
    artifact = before.artifact
    for _ in range(times):
        artifact = recalibrated(artifact, Calibrated(scale, shift, 0.25, {"fpr<=0.05": 0.8}), {"rows": 7})
    with TemporaryDirectory() as folder:
        artifact.save_pretrained(folder)
        after = Detector.from_pretrained(folder, engine=FakeEngine(), target="fpr <= 5%")
        assert Artifact.from_pretrained(folder).prevalence == 0.25
    assert after.threshold == 0.8
    for answer in ANSWERS:
        old, new = (detector.score(Example("1", PROMPT, answer)) for detector in (before, after))
        expected = old.logit
        for _ in range(times):
            expected = scale * expected + shift
        assert new.logit == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert new.score == pytest.approx(float(expit(expected)), abs=1e-12)
        assert new.intercept + sum(c.contribution for c in new.contributions) == pytest.approx(new.logit)
        assert [t.score for t in new.tokens] == pytest.approx([t.score for t in old.tokens])
        assert [(s.start, s.end) for s in new.spans] == [(s.start, s.end) for s in old.spans]


def test_the_artifact_remembers_every_recalibration():
    artifact = fake_detector().artifact
    once = recalibrated(artifact, Calibrated(2.0, -1.0, 0.25, {"balanced_accuracy": 0.4}), {"rows": 50})
    twice = recalibrated(once, Calibrated(0.5, 0.5, 0.3, {"balanced_accuracy": 0.6}), {"rows": 80})
    assert [entry["rows"] for entry in twice.about["recalibrations"]] == [50, 80]
    assert twice.about["recalibrations"][0] == {"scale": 2.0, "shift": -1.0, "prevalence": 0.25, "rows": 50}
    assert once.version == twice.version == f"{artifact.version}+recalibrated"
    assert "recalibrations" not in artifact.about


def test_the_order_of_answers_never_changes():
    logits, labels, groups = rows(40, 0.3, 1)
    found = calibrate(logits, labels, groups)
    assert auc(labels, found.scores(logits)) == auc(labels, logits)


def test_cross_validation_never_judges_a_row_by_its_own_group():
    """Other logits in one group change every fit but the one that judges it, and so every score outside its fold."""
    logits, labels, groups = rows(30, 0.5, 0.0)
    changed = np.where(groups == 3, logits * 3 + 1, logits)
    before, after = (cross_validate(x, labels, groups, k=5, seed=1).scores for x in (logits, changed))
    same_fold = next(test for _, test in folds(groups, labels, 5, 1) if (groups[test] == 3).any())
    mates = np.isin(np.arange(len(labels)), same_fold) & (groups != 3)
    assert mates.sum() >= 16
    np.testing.assert_array_equal(before[mates], after[mates])
    outside = ~np.isin(np.arange(len(labels)), same_fold)
    assert (before[outside] != after[outside]).all()


def test_cross_validation_keeps_a_limit_and_mends_a_wrong_base_rate():
    logits, labels, groups = rows(150, 0.8, -1.5)
    held_out = cross_validate(logits, labels, groups, np.repeat(["a", "b"], 300), targets=("fpr<=0.1",))
    assert brier(labels, held_out.scores) < brier(labels, expit(logits)) - 0.02
    assert held_out.flagged["fpr<=0.1"][labels == 0].mean() <= 0.12
    assert held_out.flagged["fpr<=0.1"][labels == 1].mean() > 0.1


def test_too_few_groups_for_the_folds_are_refused():
    logits, labels, groups = rows(4, 1, 0)
    with pytest.raises(InputError, match="groups"):
        cross_validate(logits, labels, groups, k=5)


def test_the_curve_falls_with_rows_where_the_detector_was_wrong():
    logits, labels, groups = rows(200, 0.4, -1.5)
    curve = recalibration_curve(logits, labels, groups, [50, 400], 20, 0, thresholds={"balanced_accuracy": 0.5})
    assert [entry["rows"] for entry in curve] == [0, 50, 400]
    assert [entry["repeats"] for entry in curve] == [1, 20, 20]
    briers = [entry["brier"]["mean"] for entry in curve]
    assert briers == sorted(briers, reverse=True)
    assert curve[0]["debiased_ece"]["mean"] > curve[2]["debiased_ece"]["mean"]
    assert curve[0]["brier"]["mean"] == pytest.approx(brier(labels, expit(logits)))
    assert "fpr<=0.05 found" not in curve[0]
    assert curve[2]["fpr<=0.05 false_alarm_rate"]["mean"] <= 0.06
    assert all(entry["brier"]["low"] <= entry["brier"]["mean"] <= entry["brier"]["high"] for entry in curve)


def test_fifty_rows_do_little_harm_to_a_detector_that_was_right():
    """Less than a free fit does, and little in absolute terms."""
    logits, labels, groups = rows(200, 1, 0, seed=1)
    shrunk = recalibration_curve(logits, labels, groups, [50], 40, 0)
    free = recalibration_curve(logits, labels, groups, [50], 40, 0, prior=None)
    before, after, freely = shrunk[0]["brier"]["mean"], shrunk[1]["brier"], free[1]["brier"]
    assert after["mean"] - before < 0.008
    assert after["high"] - before < 0.025
    assert after["mean"] < freely["mean"]


def test_the_curve_is_seeded_and_a_size_does_not_depend_on_the_others():
    logits, labels, groups = rows(60, 0.5, 0.5)
    one = recalibration_curve(logits, labels, groups, [50, 100], 5, 3)
    assert recalibration_curve(logits, labels, groups, [100], 5, 3)[1] == one[2]
    assert recalibration_curve(logits, labels, groups, [100], 5, 4)[1] != one[2]


def test_a_size_that_leaves_nothing_to_judge_on_is_refused():
    logits, labels, groups = rows(20, 1, 0)
    with pytest.raises(InputError, match="79 rows to fit on out of 80 in 20 groups"):
        recalibration_curve(logits, labels, groups, [79], 2, 0)
