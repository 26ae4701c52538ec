from __future__ import annotations

import pytest

from groundwire.batch.failure import Failure
from groundwire.errors import CaptureError, GroundwireError, InputError, MissingExtra, PromptTooLong


@pytest.mark.parametrize(
    "error",
    [
        InputError("this", expected="that", remedy="do so"),
        PromptTooLong("9 tokens"),
        CaptureError("nothing"),
        MissingExtra("pyarrow", "parquet"),
    ],
)
def test_a_groundwire_error_comes_back_as_it_was(error):
    again = Failure.of(error).error()
    assert type(again) is type(error)
    assert (str(again), again.given, again.expected, again.remedy) == (
        str(error),
        error.given,
        error.expected,
        error.remedy,
    )


def test_any_other_error_is_named_with_where_it_broke():
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        again = Failure.of(error).error()
    assert type(again) is GroundwireError
    assert again.given == "scoring broke with ZeroDivisionError: division by zero"
    assert "test_failure.py" in again.__notes__[0]


def test_a_class_that_only_shares_its_name_is_not_taken_for_ours():
    class GroundwireError(Exception):
        pass

    assert "scoring broke with" in str(Failure.of(GroundwireError("x")).error())
    assert "scoring broke with annotations" in str(Failure("annotations", "x").error())
