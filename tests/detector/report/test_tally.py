from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.report.answers import Answer
from groundwire.report.rows import Scored, Unlike
from groundwire.report.tally import BINS, MOST_VALUES, NONE, OTHERS, Tally


def row(line: int, score: float | None, **fields: object) -> Scored:
    if score is None:
        return Scored(line, line, checked=False, reason="abstained")
    return Scored(line, line, checked=True, score=score, flagged=score > 0.5, threshold=0.5, **fields)


def answer(line: int, label: int | None = None, group: str | None = None, **columns: str) -> Answer:
    return Answer(line, line, "text", label=label, group=group, columns=columns)


@given(st.lists(st.none() | st.floats(0, 1)), st.integers(0, 5))
def test_counts_add_up_and_the_highest_are_kept_in_order(scores, top):
    tally = Tally(top=top)
    for i, score in enumerate(scores):
        tally.add(row(i, score))
    checked = [s for s in scores if s is not None]
    assert (tally.all.rows, tally.all.checked) == (len(scores), len(checked))
    assert tally.all.reasons.total() == tally.all.not_checked == len(scores) - len(checked)
    assert tally.all.flagged == sum(s > 0.5 for s in checked)
    assert sum(map(sum, tally.histogram.values())) == len(checked)
    order = sorted((-s, i) for i, s in enumerate(scores) if s is not None)[:top]
    assert [r.line for r, _ in tally.highest] == [i for _, i in order]


@pytest.mark.parametrize(("score", "place"), [(0.0, 0), (0.049, 0), (0.05, 1), (0.999, BINS - 1), (1.0, BINS - 1)])
def test_a_score_falls_into_its_bin(score, place):
    tally = Tally(top=0)
    tally.add(row(1, score))
    assert tally.histogram[None].index(1) == place


def test_labels_are_kept_of_checked_rows_only():
    tally = Tally(top=0)
    pairs = [
        (0.9, 1, "g"),
        (0.2, 0, "g"),
        (0.3, None, "g"),
        (None, 1, "g"),
        (0.4, 0, None),
        (0.4, 0, None),
        (0.1, 1, "h"),
    ]
    for i, (score, label, group) in enumerate(pairs):
        tally.add(row(i, score), answer(i, label, group))
    kept = tally.labelled
    assert kept.ints("labels").tolist() == [1, 0, 0, 0, 1]
    assert kept.floats("scores").tolist() == [0.9, 0.2, 0.4, 0.4, 0.1]
    assert kept.ints("flags").tolist() == [1, 0, 0, 0, 0]
    assert kept.ints("groups").tolist() == [0, 0, 1, 2, 3]
    assert kept.numbered == 4
    assert (tally.all.labelled, tally.all.unfaithful) == (6, 3)


def test_rows_are_counted_by_column():
    tally = Tally(top=0, by=["generator"])
    tally.add(row(1, 0.9), answer(1, 1, generator="a"))
    tally.add(row(2, None), answer(2, generator="a"))
    tally.add(row(3, 0.1), answer(3))
    assert set(tally.by["generator"]) == {"a", NONE}
    counts = tally.by["generator"]["a"]
    assert (counts.rows, counts.not_checked, counts.flagged, counts.unfaithful) == (2, 1, 1, 1)


def test_a_column_of_countless_values_is_bounded():
    tally = Tally(top=0, by=["id"])
    for i in range(MOST_VALUES + 500):
        tally.add(row(i, 0.1), answer(i, id=str(i)))
    assert len(tally.by["id"]) == MOST_VALUES + 1
    assert tally.by["id"][OTHERS].rows == 500


def test_rows_unlike_training_and_their_detectors_are_counted():
    tally = Tally(top=0)
    tally.add(row(1, 0.1, unlike=Unlike(True), detector={"id": "a", "version": "1", "model": "m", "hookpoint": "h"}))
    tally.add(row(2, 0.1, unlike=Unlike(False), detector={"id": "a", "version": "2", "model": "m", "hookpoint": None}))
    tally.add(row(3, 0.1))
    assert (tally.all.unlike, tally.all.placed) == (1, 2)
    assert set(tally.detectors) == {("a", "1", "m", "h"), ("a", "2", "m", "–")}
