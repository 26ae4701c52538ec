from __future__ import annotations

import re
from html import unescape

from groundwire.rates import UNKNOWN, Rate
from groundwire.report.answers import Answer
from groundwire.report.origins import breakdowns, corrected, overall
from groundwire.report.rows import Scored
from groundwire.report.tally import Tally


def tally(labelled_of: str) -> Tally:
    """300 rows of generators a and b; those of the generators named carry labels."""
    found = Tally(top=0, by=["generator"])
    for i in range(300):
        name = "ab"[i % 2]
        label = int(i % 6 < 2) if name in labelled_of else None
        row = Scored(i, i, checked=True, score=0.9 if i % 6 < 2 else 0.2, flagged=i % 6 < 2, threshold=0.5)
        found.add(row, Answer(i, i, "t", label=label, columns={"generator": name}))
    found.add(Scored(300, 300, checked=False, reason="abstained"), Answer(300, 300, "t", columns={"generator": "a"}))
    return found


def said(markup: str | None) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", markup or "")))


def test_labels_of_every_source_give_a_corrected_rate():
    found = tally("ab")
    assert isinstance(corrected(found), Rate)
    assert "Corrected: 33.3%" in said(overall(found))
    assert said(breakdowns(found)).count("95% interval") == 2


def test_labels_of_one_source_correct_that_source_only():
    found = tally("a")
    assert str(corrected(found)).startswith(f"{UNKNOWN} (no label of 'b'")
    words = said(breakdowns(found))
    assert words.count("95% interval") == 1
    assert words.count(UNKNOWN) == 1


def test_without_labels_nothing_is_corrected():
    found = tally("")
    assert f"among checked rows {UNKNOWN}." in said(overall(found))
    assert said(breakdowns(found)).count(UNKNOWN) == 2
    assert "a 151 1 1 abstained" in said(breakdowns(found))
