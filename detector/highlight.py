"""Marks spans in a text, for terminals and plain messages."""

from __future__ import annotations

from collections.abc import Sequence

from groundwire.errors import InputError
from groundwire.types import Span

PLAIN = ("⟦", "⟧")
COLOR = ("\x1b[41m", "\x1b[0m")  # ANSI: red background, reset


def mark(text: str, spans: Sequence[Span], color: bool = False) -> str:
    """`text` with every span between markers: ANSI red background where `color`, else ⟦ and ⟧.

    spans: code points `[start, end)` of `text`, in any order; overlapping and touching ones are marked as one, so that
        markers never nest, and empty ones not at all. Raises InputError on a span outside the text.
    """
    before, after = COLOR if color else PLAIN
    parts, done = [], 0
    for start, end in _merged(text, spans):
        parts += [text[done:start], before, text[start:end], after]
        done = end
    return "".join([*parts, text[done:]])


def _merged(text: str, spans: Sequence[Span]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted((span.start, span.end) for span in spans):
        if not 0 <= start <= end <= len(text):
            raise InputError(
                f"a span [{start}, {end}) in a text of {len(text)} characters",
                expected="0 <= start <= end <= length, counted in Unicode code points",
                remedy="pass the very text that was checked",
            )
        if start == end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
