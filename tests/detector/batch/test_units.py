from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from groundwire.batch.reader import ExampleRow, InvalidRow
from groundwire.batch.units import characters_of, units
from groundwire.batch.windows import Window, windows
from groundwire.errors import InputError
from groundwire.types import Example


def window(prompts: list[int], *, length: int = 1, response: str = "r") -> Window:
    """A row per number: equal numbers share a prompt, 0 is an invalid row."""
    rows = [
        ExampleRow(i, i, Example(str(i), [{"role": "user", "content": f"{prompt}" * length}], response))
        if prompt
        else InvalidRow(i, i, InputError("broken"))
        for i, prompt in enumerate(prompts)
    ]
    (found,) = windows(rows)
    return found


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 30), st.integers(1, 5), st.integers(5, 9))
def test_every_valid_row_is_in_one_unit_within_its_bounds(prompts, characters, prompt_rows, rows):
    given_window = window(prompts, length=3)
    found = list(units(given_window, 5, characters=characters, prompt_rows=prompt_rows, rows=rows))
    assert [unit.number for unit in found] == list(range(5, 5 + len(found)))
    assert sorted(at for unit in found for at in unit.places) == [i for i, prompt in enumerate(prompts) if prompt]
    for unit in found:
        assert [example.id for example in unit.examples] == [str(at) for at in unit.places]
        assert characters_of(unit.examples) <= characters or len({str(e.messages) for e in unit.examples}) == 1
        assert sum(len(example.response) for example in unit.examples) <= characters
        assert len(unit.places) <= rows


def test_rows_of_one_prompt_stay_together_in_the_order_in_which_prompts_appear():
    found = list(units(window([1, 2, 3, 1, 2, 3, 1]), characters=5))
    assert [unit.places for unit in found] == [(0, 3, 6), (1, 4), (2, 5)]
    assert [unit.places for unit in units(window([1, 2, 3, 1, 2, 3, 1]), characters=7)] == [(0, 3, 6, 1, 4), (2, 5)]


def test_a_prompt_with_many_rows_is_cut():
    assert [len(unit.places) for unit in units(window([1] * 10), prompt_rows=4, rows=4)] == [4, 4, 2]


def test_short_prompts_share_units_up_to_a_number_of_rows():
    assert [len(unit.places) for unit in units(window(list(range(1, 10))), rows=4)] == [4, 4, 1]


def test_a_long_prompt_keeps_its_rows_as_far_as_they_are_short():
    assert [unit.places for unit in units(window([1, 1, 1], length=50), characters=2)] == [(0, 1), (2,)]


def test_a_prompt_beyond_the_budget_is_a_unit_of_its_own():
    assert [unit.places for unit in units(window([1, 2, 3], length=50), characters=20)] == [(0,), (1,), (2,)]


def test_a_window_without_valid_rows_has_no_units():
    assert list(units(window([0, 0]))) == []
