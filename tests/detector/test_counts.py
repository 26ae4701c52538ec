from __future__ import annotations

from groundwire.counts import Counts, cluster, shown
from groundwire.rates import UNKNOWN, Rate


def test_rows_are_counted_by_what_became_of_them():
    counts = Counts()
    counts.add(0.9, flagged=True, unlike=True, label=1)
    counts.add(0.1, unlike=False)
    counts.add(0.2)
    counts.add(None, reason="abstained", label=0)
    assert (counts.rows, counts.checked, counts.not_checked, counts.flagged) == (4, 3, 1, 1)
    assert (counts.labelled, counts.unfaithful, counts.evidence.labels) == (2, 1, 1)
    assert (counts.unlike, counts.placed) == (1, 2)
    assert counts.reasons == {"abstained": 1}


def test_without_labels_the_rate_is_not_corrected():
    counts = Counts()
    counts.add(0.9)
    assert shown(counts.corrected()) == UNKNOWN == "not corrected: accuracy on this data is unknown"


def test_too_few_labels_are_said():
    counts = Counts()
    counts.add(0.9, label=1)
    assert shown(counts.corrected()) == f"{UNKNOWN} (1 labelled rows that were checked; expected: at least 40)"


def test_a_rate_is_shown_with_its_interval():
    rate = Rate(0.12, 0.09, 0.15, 200, 150, 1.0, (0.08, 0.16))
    assert shown(rate) == "12.0% (95% interval 9.0% to 15.0%; 200 labels)"


def test_rows_of_one_prompt_are_one_cluster_unless_a_group_says_otherwise():
    one, other = [{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]
    assert cluster(None, one) == cluster(None, [dict(one[0])]) != cluster(None, other)
    assert cluster("g", one) == cluster("g", other) == "g"
    assert cluster(None, ()) is None
