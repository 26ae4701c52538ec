"""Markers around spans."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.errors import InputError
from groundwire.highlight import COLOR, PLAIN, mark
from groundwire.types import Span


def span(start: int, end: int) -> Span:
    return Span(start, end, "", 0.9)


@st.composite
def marked(draw: st.DrawFn) -> tuple[str, list[Span]]:
    text = draw(st.text(st.characters(exclude_characters="⟦⟧\x1b", exclude_categories=["Cs"])))
    ends = st.integers(0, len(text))
    return text, [span(*sorted(pair)) for pair in draw(st.lists(st.tuples(ends, ends), max_size=6))]


def test_plain_and_color() -> None:
    assert mark("opened in 1889, they say", [span(10, 14)]) == "opened in ⟦1889⟧, they say"
    assert mark("in 1889", [span(3, 7)], color=True) == "in \x1b[41m1889\x1b[0m"


def test_offsets_are_code_points() -> None:
    assert mark("🌉 in 1889", [span(5, 9)]) == "🌉 in ⟦1889⟧"


def test_overlapping_and_touching_spans_become_one() -> None:
    assert mark("abcdef", [span(4, 5), span(0, 3), span(1, 4), span(2, 2)]) == "⟦abcde⟧f"


@pytest.mark.parametrize(("start", "end"), [(0, 4), (-1, 2), (2, 1)])
def test_a_span_outside_the_text_is_refused(start: int, end: int) -> None:
    with pytest.raises(InputError, match="code points"):
        mark("abc", [span(start, end)])


@given(marked(), st.booleans())
def test_removing_the_markers_gives_back_the_text(case: tuple[str, list[Span]], color: bool) -> None:
    text, spans = case
    out = mark(text, spans, color)
    before, after = COLOR if color else PLAIN
    assert out.replace(before, "").replace(after, "") == text


@given(marked())
def test_markers_hold_exactly_the_characters_of_the_spans(case: tuple[str, list[Span]]) -> None:
    text, spans = case
    inside, position, depth = set(), 0, 0
    for character in mark(text, spans):
        if character in PLAIN:
            depth += 1 if character == PLAIN[0] else -1
            assert depth in (0, 1)
            continue
        if depth:
            inside.add(position)
        position += 1
    assert inside == {i for s in spans for i in range(s.start, s.end)}
