from __future__ import annotations

from typing import get_args

from groundwire.report.reading import REASONS, reading
from groundwire.types import Reason


def test_every_reason_has_its_words():
    assert set(REASONS) == set(get_args(Reason))


def test_the_limits_are_told():
    said = reading()
    for word in ("Score", "Flagged", "Not checked", "Spans", "Terms", "Limits"):
        assert f"<dt>{word}</dt>" in said
