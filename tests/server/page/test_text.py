"""Where the page cuts an answer: code points against UTF-16 units, and characters that are several code points."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def cut(opened: Callable[..., Any], tab: Any) -> Callable[..., Any]:
    opened()

    def pieces(text: str, tokens: list[tuple[int, int, float]], spans: list[tuple[int, int]] = []) -> Any:  # noqa: B006
        own = [{"start": start, "end": end, "score": score} for start, end, score in tokens]
        parts = [{"start": start, "end": end} for start, end in spans]
        given = ", ".join(json.dumps(one) for one in (text, own, parts))
        found = tab.js(f"import('/static/text.js').then(({{ pieces }}) => pieces({given}))")
        return [(one["text"], one["score"], one["part"]) for one in found]

    return pieces


def test_offsets_count_code_points(cut):
    assert cut("🌉a 🎉b", [(0, 2, 0.1), (2, 5, 0.9)], [(3, 5)]) == [
        ("🌉a", 0.1, -1),
        (" ", 0.9, -1),
        ("🎉b", 0.9, 0),
    ]


def test_a_character_is_never_cut(cut):
    family = "👩‍🚀"  # three code points
    assert cut(f"{family}x", [(0, 1, 0.1), (1, 2, 0.5), (2, 3, 0.2), (3, 4, 0.3)]) == [
        (family, 0.5, -1),
        ("x", 0.3, -1),
    ]
    assert cut("e\u0301t", [(0, 1, 0.1), (1, 3, 0.9)], [(1, 3)]) == [("e\u0301t", 0.9, 0)]


def test_tokens_that_share_a_character_are_one_piece(cut):
    assert cut("a🌉", [(0, 1, 0.1), (1, 2, 0.2), (1, 2, 0.8), (1, 2, 0.3)]) == [("a", 0.1, -1), ("🌉", 0.8, -1)]


def test_nothing_is_lost_where_tokens_do_not_cover_the_text(cut):
    assert cut("ab cd", [(0, 2, 0.5)], []) == [("ab", 0.5, -1), (" cd", None, -1)]
    assert cut("abc", [], [(1, 2)]) == [("a", None, -1), ("b", None, 0), ("c", None, -1)]
    assert cut("", [], []) == []


def test_offsets_past_the_end_do_no_harm(cut):
    assert cut("ab", [(0, 1, 0.5), (1, 9, 0.7)], [(1, 9)]) == [("a", 0.5, -1), ("b", 0.7, 0)]
