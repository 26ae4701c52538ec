"""Numbers of a text as values, and whether another number follows from them: the same written otherwise, a sum, a
difference, a product, a share, or another unit.

An answer that says "14 days" of "two weeks", or adds two fees up, brings no number of its own.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property

MOST = 48  # values of a text that are combined; later ones only stand for themselves
ROUNDED = 0.012  # relative error of a number given in another unit, or as a share
_EXACT = (2, 3, 4, 5, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000, 3600, 1_000_000)  # counts, time, thousands, percent
_MEASURES = (1.609, 0.3048, 2.54, 0.4536, 28.35, 3.785, 0.9144, 1.852)  # miles, feet, inches, pounds, ounces, gallons
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = (
    {word: float(i) for i, word in enumerate(_SMALL) if word != "one"}  # "one" is more often no number
    | {word: 10.0 * i for i, word in enumerate(_TENS, 2)}
    | {"half": 0.5, "quarter": 0.25, "third": 1 / 3, "dozen": 12.0, "hundred": 100.0, "thousand": 1000.0, "twice": 2.0}
)
_DIGITS = re.compile(r"\d{1,15}(?:,\d{3}){0,4}(?:\.\d{1,9})?")


def value_of(word: str) -> float | None:
    """The value of a word that is a number in digits ("1,200", "3.5") or small and spelt out ("twelve"); else None."""
    if _DIGITS.fullmatch(word):
        return float(word.replace(",", ""))
    return _WORDS.get(word.lower())


class Numbers:
    """The numbers of a text, to be asked for others. Never changes once built."""

    def __init__(self, words: Iterable[str]) -> None:
        self._values = list(dict.fromkeys(v for word in words if (v := value_of(word)) is not None))

    def follows(self, value: float) -> bool:
        """Whether `value` is one of the numbers, a sum, difference or product of two, or one in another unit."""
        if value in self._values or _near(self._combined, value, 1e-9):
            return True
        return _near(self._rounded, value, ROUNDED)

    @cached_property
    def _combined(self) -> list[float]:
        first = self._values[:MOST]
        pairs = [(a, b) for i, a in enumerate(first) for b in first[i + 1 :]]
        units = {a * unit for a in first for unit in _EXACT} | {a / unit for a in first for unit in _EXACT}
        found = units | {float(len(first))} | {a + b for a, b in pairs} | {abs(a - b) for a, b in pairs}
        return sorted(found | {a * b for a, b in pairs} | {100 - a for a in first if 0 < a < 100} | {sum(first)})

    @cached_property
    def _rounded(self) -> list[float]:
        first = self._values[:MOST]
        found = {a * unit for a in first for unit in _MEASURES} | {a / unit for a in first for unit in _MEASURES}
        shares = {100 * a / b for a in first for b in first if b and a != b}
        changes = {100 * abs(a - b) / b for a in first for b in first if b and a != b}
        degrees = {a * 1.8 + 32 for a in first} | {(a - 32) / 1.8 for a in first}
        return sorted(found | shares | changes | degrees)


def _near(ascending: list[float], value: float, relative: float) -> bool:
    at = bisect_left(ascending, value)
    return any(abs(other - value) <= relative * abs(value) for other in ascending[max(0, at - 1) : at + 1])
