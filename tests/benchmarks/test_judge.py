from __future__ import annotations

import pytest

from groundwire.errors import InputError
from groundwire.training.data import LabelledExample


def _example(number: int, label: int) -> LabelledExample:
    messages = [{"role": "user", "content": "Who?"}]
    return LabelledExample(str(number), messages, "someone", label, None, str(number), "m", "d")


def _verdict(score: float | None) -> dict:
    if score is None:
        return {"status": "not_checked", "reason": "abstained"}
    return {"status": "checked", "score": score, "flagged": score > 0.5, "threshold": 0.5}


def test_rows_that_were_not_checked_are_counted_by_reason_and_in_no_figure(script):
    labels, scores = [1, 1, 0, 0, 0], [0.9, 0.4, 0.6, 0.1, None]
    found = script("judge").judge(
        [_example(i, label) for i, label in enumerate(labels)], [_verdict(score) for score in scores]
    )
    assert (found["rows"], found["not_checked"]) == (4, {"abstained": 1})
    assert found["auc"] == 0.75
    assert (found["flagged_of_unfaithful"], found["flagged_of_faithful"]) == (0.5, 0.5)


def test_another_number_of_verdicts_is_refused(script):
    with pytest.raises(InputError, match="2 verdicts"):
        script("judge").judge([_example(0, 1)], [_verdict(0.1), _verdict(0.2)])
