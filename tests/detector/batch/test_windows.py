from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from groundwire.batch.reader import ExampleRow, InvalidRow, Row, read_rows
from groundwire.batch.windows import windows
from groundwire.errors import InputError
from groundwire.types import Example, Passage


def row(number: int, prompt: str = "p", response: str = "r", passages: tuple[Passage, ...] = ()) -> ExampleRow:
    messages = [{"role": "user", "content": prompt}]
    return ExampleRow(number, number, Example(str(number), messages, response, passages=passages))


def broken(number: int, why: str = "broken") -> InvalidRow:
    return InvalidRow(number, number, InputError(why), where="in.jsonl")


def rows(prompts: list[int]) -> list[Row]:
    """One row per number: equal numbers share a prompt of so many characters, 0 is an invalid row."""
    return [row(i, "x" * prompt) if prompt else broken(i) for i, prompt in enumerate(prompts)]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 9), st.integers(1, 40))
def test_windows_hold_all_rows_in_order_within_their_bounds(prompts, most, characters):
    given_rows = rows(prompts)
    cut = list(windows(given_rows, most=most, characters=characters))
    assert [each for window in cut for each in window.rows] == given_rows
    assert [window.number for window in cut] == list(range(len(cut)))
    assert [at for window in cut for at in window.places] == list(range(len(prompts)))
    for window in cut:
        distinct = {r.example.messages[0]["content"] for r in window.rows if isinstance(r, ExampleRow)}
        answers = sum(len(r.example.response) for r in window.rows if isinstance(r, ExampleRow))
        assert window.characters == sum(map(len, distinct)) + answers
        assert len(window.rows) <= most
        assert window.characters <= characters or len(window.rows) == 1


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(0, 40), st.integers(1, 5))
def test_where_a_window_ends_does_not_depend_on_what_comes_after_it(prompts, more, most):
    whole = list(windows(rows([*prompts, *[1] * more]), most=most, characters=30))
    part = list(windows(rows(prompts), most=most, characters=30))
    assert [window.digest for window in whole][: len(part[:-1])] == [window.digest for window in part[:-1]]


def test_equal_prompts_are_one_object_and_so_are_their_passages():
    (window,) = windows([row(i, "p" * 50, "r", (Passage("p" * 50, "a"),)) for i in range(9)])
    assert len({id(each.example.messages) for each in window.rows}) == 1
    assert len({id(each.example.passages) for each in window.rows}) == 1
    assert [each.example.id for each in window.rows] == [str(i) for i in range(9)]


def test_passages_of_other_names_share_the_messages_only():
    (window,) = windows([row(i, "p", "r", (Passage("p", str(i)),)) for i in range(3)])
    assert len({id(each.example.messages) for each in window.rows}) == 1
    assert [each.example.passages[0].id for each in window.rows] == ["0", "1", "2"]


def digest(*given_rows: Row) -> str:
    (window,) = windows(given_rows)
    return window.digest


def test_the_digest_tells_whatever_the_output_depends_on():
    a = row(1, "p", "r", (Passage("p", "x"),))
    changed = [
        row(2, "p", "r", (Passage("p", "x"),)),
        row(1, "q", "r", (Passage("p", "x"),)),
        row(1, "p", "s", (Passage("p", "x"),)),
        row(1, "p", "r", (Passage("p", "y"),)),
        row(1, "p", "r"),
        ExampleRow(1, "1", a.example),
        ExampleRow(1, 1, Example("1", [{"role": "system", "content": "p"}], "r", passages=a.example.passages)),
        broken(1),
        broken(2),
        broken(1, "another"),
    ]
    found = [digest(a), *(digest(each) for each in changed), digest(a, a), digest(row(1, "pr", ""), row(2))]
    assert len(set(found)) == len(found)


def test_the_digest_leaves_out_what_the_output_does_not_depend_on():
    one = ExampleRow(1, 1, Example("1", [{"role": "user", "content": "p"}], "r"), {"label": 1})
    other = ExampleRow(7, 1, Example("1", [{"role": "user", "content": "p"}], "r"))
    assert digest(one) == digest(other)


def test_rows_of_a_file_are_cut_as_they_are_read(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", "response": "r"}) + "\n" for _ in range(10)))
    cut = windows(read_rows(path), most=4)
    assert len(next(cut).rows) == 4
    assert [len(window.rows) for window in cut] == [4, 2]


def test_no_rows_no_windows():
    assert list(windows([])) == []
