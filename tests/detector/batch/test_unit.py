"""A row on which the detector breaks says so; what breaks everything ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwire.batch.unit import LocalRunner, Options, score_unit
from groundwire.errors import CaptureError
from tests.detector.batch.breaking import BROKEN, ODD, Breaking, units

OPTIONS = Options(0.5, features="response")


def test_a_row_that_breaks_the_detector_is_not_checked_and_stops_no_other(tmp_path: Path) -> None:
    detector = Breaking(tmp_path)
    (unit,) = units(1, unit0=ODD)
    (clean,) = units(1)
    found, expected = score_unit(detector, unit, OPTIONS), score_unit(detector, clean, OPTIONS)
    odd = [i for i, example in enumerate(unit.examples) if example.response == ODD]
    assert odd
    for i, (verdict, features) in enumerate(zip(found.verdicts, found.features, strict=True)):
        if i in odd:
            assert (verdict["status"], verdict["reason"]) == ("not_checked", "capture_failed")
            assert verdict["detail"] == "ZeroDivisionError: as asked"
            assert verdict["score"] is None
            assert features is None
        else:
            assert verdict == expected.verdicts[i]
            assert features is not None


def test_a_detector_that_is_broken_ends_the_run(tmp_path: Path) -> None:
    runner = LocalRunner(Breaking(tmp_path), OPTIONS)
    with pytest.raises(ZeroDivisionError):
        list(runner.run(units(2, unit0="ZeroDivisionError")))


def test_an_error_of_ours_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="broken on demand"):
        list(LocalRunner(Breaking(tmp_path), OPTIONS).run(units(1, unit0=BROKEN)))
