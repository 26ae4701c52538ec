from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from groundwire.batch.chunks import chunked
from groundwire.batch.reader import ExampleRow, InvalidRow
from groundwire.errors import InputError
from groundwire.types import Example


def rows(prompts: list[int]) -> list[ExampleRow | InvalidRow]:
    """One row per number: equal numbers share a prompt, 0 is an invalid row."""
    return [
        ExampleRow(i, i, Example(str(i), [{"role": "user", "content": str(prompt)}], "r"))
        if prompt
        else InvalidRow(i, i, InputError("broken"))
        for i, prompt in enumerate(prompts, 1)
    ]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 5), st.integers(0, 5))
def test_chunks_hold_all_rows_in_order_within_the_cap(prompts, size, more):
    given_rows = rows(prompts)
    chunks = list(chunked(given_rows, size=size, cap=size + more))
    assert [row for chunk in chunks for row in chunk] == given_rows
    assert all(size <= len(chunk) <= size + more for chunk in chunks[:-1])


def test_rows_of_one_prompt_stay_together():
    chunks = chunked(rows([1, 1, 2, 2, 2, 1, 3]), size=3, cap=100)
    assert [len(chunk) for chunk in chunks] == [5, 2]


def test_a_prompt_with_too_many_rows_is_cut_at_the_cap():
    assert [len(chunk) for chunk in chunked(rows([1] * 10), size=2, cap=4)] == [4, 4, 2]


def test_invalid_rows_do_not_extend_a_chunk():
    assert [len(chunk) for chunk in chunked(rows([0] * 5), size=2, cap=4)] == [2, 2, 1]


def test_no_rows_no_chunks():
    assert list(chunked([])) == []
