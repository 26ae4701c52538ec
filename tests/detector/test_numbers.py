from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.grounding import Grounding
from groundwire.numbers import MOST, Numbers, value_of


@pytest.mark.parametrize(
    ("word", "value"),
    [("1,200", 1200.0), ("3.5", 3.5), ("Twelve", 12.0), ("half", 0.5), ("one", None), ("12,3", None), ("bridge", None)],
)
def test_a_word_has_a_value_or_none(word, value):
    assert value_of(word) == value


@pytest.mark.parametrize(
    ("words", "value", "follows"),
    [
        (["2"], 14.0, True),  # weeks to days
        (["two"], 2.0, True),
        (["40", "25"], 65.0, True),
        (["40", "25"], 15.0, True),
        (["3", "120"], 360.0, True),
        (["642"], 2106.0, True),  # metres to feet
        (["20"], 68.0, True),  # Celsius to Fahrenheit
        (["50", "200"], 25.0, True),  # per cent
        (["1931", "642"], 1932.0, False),
        (["900"], 1213.0, False),
        ([], 5.0, False),
    ],
)
def test_what_follows_from_a_text_s_numbers(words, value, follows):
    assert Numbers(words).follows(value) is follows


@given(st.lists(st.integers(0, 10_000), max_size=3 * MOST), st.integers(0, 10_000))
def test_every_number_follows_from_itself_and_in_digits_or_with_commas(values, other):
    numbers = Numbers([f"{v:,}" for v in values])
    assert all(numbers.follows(float(v)) for v in values)
    assert isinstance(numbers.follows(float(other)), bool)


def test_answers_that_convert_add_and_count_have_no_strange_number():
    index = Grounding("The fee is 40 euros, a copy 25 euros. Send it within two weeks.")
    said = "1. Pay 65 euros in all.\n2. Send it within 14 days.\n3. A copy is 25 euros."
    assert index.measure(said)["strange_numbers"] == 0
    assert index.measure(said)["absent_numbers"] > 0
    assert index.measure("Pay 71 euros.")["strange_numbers"] > 0
