from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from groundwire.artifact import Artifact
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.training.calibrate import TARGETS
from groundwire.training.calibrate_run import check_folder, fit_scored, tables
from groundwire.training.metrics import auc, brier
from groundwire.training.scored import Scored


def scored(n_groups=120, scale=0.5, shift=-1.0, seed=0):
    """Two data sets whose labels have log-odds `scale * logit + shift`."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), 4)
    logits = rng.normal(0, 1.5, len(groups))
    labels = (rng.random(len(groups)) < expit(scale * logits + shift)).astype(int)
    datasets = np.where(groups < n_groups // 3, "small", "large")
    return Scored(logits, labels, groups.astype(str), datasets, Counter())


@pytest.fixture(scope="module")
def fitted():
    rows = scored()
    artifact = replace(fake_detector().artifact, card="# Fake\n")
    return rows, artifact, *fit_scored(artifact, rows, k=5, seed=0)


def test_the_new_artifact_knows_every_target_and_says_what_it_was_fitted_on(fitted, tmp_path):
    rows, old, made, figures = fitted
    made.save_pretrained(tmp_path)
    loaded = Artifact.from_pretrained(tmp_path)
    assert tuple(loaded.thresholds) == TARGETS
    entry = loaded.about["recalibrations"][-1]
    assert (entry["rows"], entry["groups"], entry["unfaithful"]) == (480, 120, int(rows.labels.sum()))
    assert [(own["dataset"], own["rows"], own["groups"]) for own in entry["datasets"]] == [
        ("small", 160, 40),
        ("large", 320, 80),
    ]
    assert loaded.scorer.intercept == entry["scale"] * old.scorer.intercept + entry["shift"]
    assert entry == json.loads(json.dumps({"scale": entry["scale"], "prior": entry["prior"], **figures}))


def test_the_figures_before_are_the_detector_s_and_after_are_held_out(fitted):
    rows, _, _, figures = fitted
    small = figures["datasets"][0]
    own = rows.datasets == "small"
    assert small["auc"] == auc(rows.labels[own], rows.logits[own])
    assert small["brier"]["before"] == brier(rows.labels[own], expit(rows.logits[own]))
    assert small["brier"]["after"] < small["brier"]["before"]
    assert small["debiased_ece"]["after"] < small["debiased_ece"]["before"]
    balanced = figures["targets"]["balanced_accuracy"]
    flagged = expit(rows.logits) > 0.5
    faithful = rows.labels == 0
    of_each = [flagged[faithful & (rows.datasets == name)] for name in ("small", "large")]
    assert balanced["before"]["threshold"] == 0.5
    weight = [1 / (rows.datasets == name).sum() for name in ("small", "large")]
    expected = sum(w * f.sum() for w, f in zip(weight, of_each, strict=True)) / sum(
        w * len(f) for w, f in zip(weight, of_each, strict=True)
    )
    assert balanced["before"]["false_alarm_rate"] == pytest.approx(expected)
    assert figures["targets"]["fpr<=0.05"]["before"] is None  # the fake has no such threshold
    assert figures["targets"]["fpr<=0.05"]["after"]["false_alarm_rate"] < 0.1


def test_the_card_gets_a_section_with_the_table(fitted):
    _, old, made, figures = fitted
    assert made.card.startswith("# Fake\n\n## Recalibration\n")
    assert tables(figures) in made.card
    assert "small (160 rows), large (320 rows)" in made.card
    assert old.card == "# Fake\n"
    again, _ = fit_scored(made, scored(seed=3), k=3, seed=0)
    assert again.card.count("## Recalibration") == 2


def test_the_tables_say_what_is_unchanged_what_is_held_out_and_what_flags_nothing(fitted):
    *_, figures = fitted
    text = tables(figures)
    assert "AUC (95 %), unchanged" in text
    assert "5-fold cross-validation over groups" in text
    _, few = fit_scored(fake_detector().artifact, scored(n_groups=60), k=5, seed=0)
    assert "\n- fpr<=0.01 flags nothing: " in tables(few)
    assert "fpr<=0.01 flags nothing" not in text  # 120 groups are enough, though neither data set's are
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert {"small", "large", *TARGETS} <= lines.keys()
    assert "n/a" in lines["fpr<=0.05"]
    assert len({len(lines[target]) for target in TARGETS}) == 1  # aligned


def test_rows_of_one_label_are_refused():
    rows = replace(scored(), labels=np.zeros(480, int))
    with pytest.raises(InputError, match="480 rows, all with label 0"):
        fit_scored(fake_detector().artifact, rows, k=5, seed=0)


def test_nothing_is_overwritten_by_mistake(tmp_path):
    old, new, other = tmp_path / "old", tmp_path / "new", tmp_path / "other"
    for folder in (old, new, other):
        folder.mkdir()
    fake_detector().artifact.save_pretrained(old)
    check_folder(tmp_path / "none", old, overwrite=False)
    check_folder(new, old, overwrite=False)
    fake_detector().artifact.save_pretrained(new)
    with pytest.raises(InputError, match="--overwrite"):
        check_folder(new, old, overwrite=False)
    check_folder(new, old, overwrite=True)
    (other / "thesis.tex").write_text("...")
    with pytest.raises(InputError, match="is no detector"):
        check_folder(other, old, overwrite=True)
    with pytest.raises(InputError, match="would replace the detector"):
        check_folder(tmp_path / "new" / ".." / "old", old, overwrite=True)
