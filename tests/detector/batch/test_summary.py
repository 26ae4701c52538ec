from __future__ import annotations

from groundwire.batch.reader import ExampleRow, InvalidRow
from groundwire.batch.summary import SHOWN, Summary
from groundwire.errors import InputError
from groundwire.types import Example

ROW = ExampleRow(1, 1, Example("1", [{"role": "user", "content": "p"}], "r"))
CHECKED = {"status": "checked", "reason": None, "score": 0.7, "flagged": True, "unlike_training": None}
INVALID = CHECKED | {
    "status": "not_checked",
    "reason": "invalid_input",
    "score": None,
    "flagged": None,
    "detail": "why",
}


def test_rows_are_counted_by_what_is_written_of_them():
    summary = Summary()
    summary.add(CHECKED, ROW, earlier=True)
    summary.add(CHECKED | {"flagged": False}, ROW)
    for line in range(SHOWN + 2):
        summary.add(INVALID, InvalidRow(line, line, InputError("x")))
    assert (summary.rows, summary.checked, summary.flagged, summary.earlier) == (SHOWN + 4, 2, 1, 1)
    assert summary.invalid == SHOWN + 2
    assert summary.unreadable == ["why"] * SHOWN
    assert summary.counts.all.rows == summary.rows
