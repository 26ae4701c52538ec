from __future__ import annotations

import re

import pytest

from groundwire.report.accuracy import auc, brier
from groundwire.report.answers import Answer
from groundwire.report.quality import quality
from groundwire.report.rows import Scored
from groundwire.report.tally import Tally


def tally(*pairs: tuple[float | None, int | None], groups: bool = False) -> Tally:
    made = Tally(top=0)
    for i, (score, label) in enumerate(pairs):
        flagged = score is not None and score > 0.5
        row = Scored(i, i, score is not None, None, score, flagged, 0.5)
        made.add(row, Answer(i, i, "x" * i, label=label, group=f"g{i // 2}" if groups else None))
    return made


def said(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", markup))


@pytest.mark.parametrize("pairs", [[], [(0.4, None)], [(None, 1)]])
def test_without_labels_of_checked_rows_accuracy_is_unknown(pairs):
    words = said(quality(tally(*pairs)))
    assert "accuracy of the detector on this data is unknown" in words
    assert "AUC" not in words


def test_figures_are_of_the_labelled_rows():
    pairs = [(0.9, 1), (0.6, 0), (0.7, 1), (0.1, 0), (0.2, 1), (0.3, 0), (0.4, None), (None, 1)]
    made = tally(*pairs)
    words = said(quality(made))
    labels, scores = made.labelled.ints("labels"), made.labelled.floats("scores")
    assert "6 have a label: 3 unfaithful, 3 faithful" in words
    assert "Labelled but not checked, and left out: 1." in words
    assert f"{auc(labels, scores):.3f}" in words
    assert f"{brier(labels, scores):.3f}" in words
    assert "always saying 0.50 gives 0.250" in words
    assert "unfaithful answers that are found: 2 of 3" in words
    assert "false alarms: 1 of 3" in words
    assert "if the detector was trained on these rows" in words


@pytest.mark.parametrize("groups", [True, False])
def test_the_bootstrap_says_what_it_draws(groups):
    words = said(quality(tally(*[(0.9, 1), (0.2, 0)] * 5, groups=groups)))
    assert ("bootstrap over groups of rows (5)" in words) is groups
    assert ("too narrow where the rows of a group are alike" in words) is groups


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_alone_tells_no_auc(label):
    words = said(quality(tally((0.9, label), (0.2, label))))
    assert "All labels are the same" in words
    assert "AUC" in words
    assert "nan" not in words.lower()
