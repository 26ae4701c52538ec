"""Quantities of a text as values in one unit of their dimension, so that "4 weeks" and "28 days" are the same.

    [(q.dimension, q.value) for q in quantities("Wait 90 minutes at 7.30 pm.")]
    # [("duration", 5400.0), ("clock", 450.0)]

English, and the units that everyday answers convert between. What has no unit is a number of dimension "number"; a
number of four digits between 1000 and 2099 without a unit is a year.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ROUNDED = 0.02  # relative error of a value that was given in another unit
COMBINED = 0.012  # of one that was added up
MOST = 24  # quantities that are combined
EXACT = ("number", "year", "date", "clock", "money")  # dimensions that have one unit
PLACES = ("year", "date", "clock")  # what is no amount: nothing is added to it

_UNITS: dict[str, tuple[str, float]] = {}
for _dimension, _factor, _names in (
    ("duration", 1, "second seconds sec secs s"),
    ("duration", 60, "minute minutes min mins"),
    ("duration", 3600, "hour hours hr hrs h"),
    ("duration", 86400, "day days"),
    ("duration", 7 * 86400, "week weeks"),
    ("duration", 14 * 86400, "fortnight fortnights"),
    ("duration", 30.4 * 86400, "month months"),
    ("duration", 365 * 86400, "year years"),
    ("duration", 3650 * 86400, "decade decades"),
    ("length", 0.001, "mm millimetre millimetres millimeter millimeters"),
    ("length", 0.01, "cm centimetre centimetres centimeter centimeters"),
    ("length", 1, "m metre metres meter meters"),
    ("length", 1000, "km kilometre kilometres kilometer kilometers"),
    ("length", 0.0254, "inch inches"),
    ("length", 0.3048, "foot feet ft"),
    ("length", 0.9144, "yard yards"),
    ("length", 1609.34, "mile miles"),
    ("mass", 0.001, "mg milligram milligrams"),
    ("mass", 1, "g gram grams"),
    ("mass", 1000, "kg kilo kilos kilogram kilograms"),
    ("mass", 1e6, "t tonne tonnes ton tons"),
    ("mass", 28.35, "oz ounce ounces"),
    ("mass", 453.6, "lb lbs"),
    ("volume", 0.001, "ml millilitre millilitres milliliter milliliters"),
    ("volume", 0.01, "cl centilitre centilitres"),
    ("volume", 1, "l litre litres liter liters"),
    ("volume", 3.785, "gallon gallons"),
    ("data", 1, "kb kilobyte kilobytes"),
    ("data", 1e3, "mb megabyte megabytes"),
    ("data", 1e6, "gb gigabyte gigabytes"),
    ("data", 1e9, "tb terabyte terabytes"),
    ("share", 1, "% percent pct"),
    ("temperature", 1, "degree degrees °c °"),
    ("power", 1, "w watt watts"),
    ("power", 1000, "kw kilowatt kilowatts"),
    ("power", 1e6, "mw megawatt megawatts"),
    ("area", 1, "m² sqm"),
    ("area", 1e4, "hectare hectares ha"),
    ("area", 4047, "acre acres"),
    ("area", 1e6, "km²"),
    ("money", 1, "euro euros eur dollar dollars usd pound pounds gbp franc francs krone kroner krona kronor"),
    ("money", 0.01, "cent cents pence"),
):
    for _name in _names.split():
        _UNITS[_name] = (_dimension, float(_factor))

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: float(i) for i, word in enumerate(_SMALL)} | {word: 10.0 * i for i, word in enumerate(_TENS, 2)}
_TIMES = {"dozen": 12.0, "hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "k": 1e3, "m": 1e6, "bn": 1e9}
_SHARES = {"half": 50.0, "third": 100 / 3, "quarter": 25.0, "fifth": 20.0}
_SEVERAL = {f"{name}s": share for name, share in _SHARES.items()}  # two thirds
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH = {name[:size]: i for i, name in enumerate(_MONTHS, 1) for size in (3, 9)} | {"sept": 9}
_MONEY = ("€", "$", "£")
_SUFFIXES = (("o", "clock"), ("a", "m"), ("p", "m"), ("am",), ("pm",))
# Every alternative is bounded, so that no text takes more than linear time.
_TOKEN = re.compile(
    r"\d{4}-\d{2}-\d{2}(?!\d)|(?:(?<![\w.])[-−])?(?:\d{1,3}(?:[ \u00a0\u202f]\d{3}(?!\d)){1,4}|\d{1,15}(?:,\d{3}){0,4})"
    r"(?:[.:]\d{1,9})?|[^\W\d_]{1,30}²?|[€$£%°]"
)
_ISO = re.compile(r"\d{4}-(\d{2})-(\d{2})")
_GROUPS = re.compile(r"[, \u00a0\u202f]")
_TIME = re.compile(r"(\d{1,2}):(\d{2})")


class Quantity(NamedTuple):
    """Code points `[start, end)` of a text. value: in the dimension's unit: seconds, metres, grams, litres, kilobytes,
    percent, degrees Celsius, watts, square metres; minutes after twelve for "clock", 100 times month plus day for
    "date". amount: the number as it is written, which is all that one without a unit can be compared with."""

    start: int
    end: int
    dimension: str
    value: float
    amount: float

    def equals(self, other: Quantity) -> bool:
        """Whether both say the same, but for what rounding in another unit leaves."""
        if self.dimension != other.dimension:
            both = {self.dimension, other.dimension}
            return "number" in both and "date" not in both and _close(self.amount, other.amount, 1e-9)
        # In one unit nothing is rounded: 98 kg are not 99.
        same_unit = _close(self.value * other.amount, other.value * self.amount, 1e-9)
        exact = self.dimension in EXACT or same_unit
        return _close(self.value, other.value, 1e-9 if exact else ROUNDED)


def quantities(text: str, start: int = 0, end: int | None = None, *, articles: bool = False) -> Iterator[Quantity]:
    """The quantities of `text[start:end]`, in order and apart. Linear in the text.

    articles: whether "a week" is one week. A passage may mean that, an answer that says "twice a week" does not.
    """
    found = _TOKEN.finditer(text, start, len(text) if end is None else end)
    reader = _Reader(articles, [_Word(each.start(), each.end(), each[0]) for each in found])
    at = 0
    while at < len(reader):
        made = reader.quantity(at)
        if made is None:
            at += 1
            continue
        quantity, at = made
        yield quantity


def follows(quantity: Quantity, given: Sequence[Quantity]) -> bool:
    """Whether a quantity is a sum, difference, product, share or complement of given ones, of the first `MOST`."""
    value, dimension = quantity.value, quantity.dimension
    exact = dimension in EXACT
    if dimension in PLACES:
        return False
    allowed = (1e-9 if exact else COMBINED) * abs(value) + 1e-9

    def is_it(other: float) -> bool:
        return abs(other - value) <= allowed

    few = [q for q in given if q.dimension not in PLACES][:MOST]
    if dimension == "number":
        same = [q.amount for q in few]
    else:
        same = [q.value for q in few if q.dimension == dimension or (q.dimension == "number" and dimension == "money")]
    counts = [q.value for q in few if q.dimension == "number"]
    if same and is_it(sum(same)):
        return True
    if any(is_it(a + b) or is_it(abs(a - b)) for i, a in enumerate(same) for b in same[i + 1 :]):
        return True
    if any(is_it(a * n) or (n and is_it(a / n)) for a in same for n in counts):
        return True
    if dimension == "share" and any(is_it(100 - a) for a in same):
        return True
    if dimension not in ("share", "number"):
        return False
    factor, allowed = 100 if dimension == "share" else 1, ROUNDED * abs(value) + 1e-9
    pairs = [(a.value, b.value) for a in few for b in few if a is not b and a.dimension == b.dimension and b.value]
    return any(is_it(factor * a / b) or (dimension == "share" and is_it(100 * abs(a - b) / b)) for a, b in pairs)


def _close(one: float, other: float, relative: float) -> bool:
    return abs(one - other) <= relative * max(abs(one), abs(other))


class _Word(NamedTuple):
    start: int
    end: int
    spelling: str

    @property
    def text(self) -> str:
        return self.spelling.lower()


class _Reader:
    """Words of a text, and what stands from a place among them on. Each method gives None, or what it found with the
    place after it."""

    def __init__(self, articles: bool, words: Sequence[_Word]) -> None:
        self._articles, self._words = articles, words

    def __len__(self) -> int:
        return len(self._words)

    def quantity(self, at: int) -> tuple[Quantity, int] | None:
        return self._clock(at) or self._date(at) or self._measured(at)

    def _text(self, at: int) -> str:
        return self._words[at].text if at < len(self._words) else ""

    def _made(
        self, first: int, after: int, dimension: str, value: float, amount: float | None = None
    ) -> tuple[Quantity, int]:
        amount = value if amount is None else amount
        return Quantity(self._words[first].start, self._words[after - 1].end, dimension, value, amount), after

    def _number(self, at: int, money: bool = False) -> tuple[float, int] | None:
        """A number in digits or words, with its multiplier. money: whether a currency sign stands before it."""
        text = self._text(at)
        digits = text.lstrip("-−")
        if digits[:1].isdecimal() and ":" not in digits and "-" not in digits:
            value, at = float(_GROUPS.sub("", digits)) * (1 if digits == text else -1), at + 1
        elif text in _WORDS:
            value, at = _WORDS[text], at + 1
            if value >= 20 and 0 < _WORDS.get(self._text(at), 0) < 10:  # twenty-five
                value, at = value + _WORDS[self._text(at)], at + 1
        elif text in ("a", "an") and self._text(at + 1) in ("dozen", "hundred", "thousand", "million"):
            value, at = 1.0, at + 1
        elif text == "dozen":
            return 12.0, at + 1
        else:
            return None
        while (text := self._text(at)) in _TIMES:
            attached = self._words[at].start == self._words[at - 1].end
            if not (len(text) > 2 or money or (text != "m" and attached)):  # "5 m" and "5m" are lengths, "£5m" is not
                break
            value, at = value * _TIMES[text], at + 1
            rest = at + (text == "hundred" and self._text(at) == "and")
            if text == "hundred" and self._text(rest) in _WORDS:  # two hundred and fifty
                more = self._number(rest)
                value, at = (value + more[0], more[1]) if more and more[0] < 100 else (value, at)
        if self._text(at) == "and" and self._text(at + 1) == "a" and self._text(at + 2) == "half":
            value, at = value + 0.5, at + 3
        return value, at

    def _measured(self, first: int) -> tuple[Quantity, int] | None:
        """A number with its unit, a share in words, or a bare number."""
        text = self._text(first)
        following = self._text(first + 1)
        fraction = following == "of" or self._text(first - 1) == "one" if first else following == "of"
        if text in _SHARES and (fraction or (text == "half" and following == "the")):
            return self._made(first, first + 1, "share", _SHARES[text])
        article = ("a", "an")
        if text == "half" and following in article and self._text(first + 2) in _UNITS:  # half an hour
            dimension, factor = _UNITS[self._text(first + 2)]
            return self._made(first, first + 3, dimension, factor / 2, 0.5)
        if (
            self._articles
            and text in article
            and _UNITS.get(following, ("", 0))[0] == "duration"
            and len(following) > 2
        ):
            return self._made(first, first + 2, "duration", _UNITS[following][1], 1.0)
        money = text in _MONEY
        number = self._number(first + money, money)
        if number is None:
            return None
        value, at = number
        unit, beyond = self._text(at), self._text(at + 1)
        if money or unit in _MONEY:
            return self._made(first, at if money else at + 1, "money", value)
        if unit in _SEVERAL and value < 10:
            return self._made(first, at + 1, "share", value * _SEVERAL[unit], value)
        if unit == "per" and beyond == "cent":
            return self._made(first, at + 2, "share", value)
        if unit in ("°", "degree", "degrees") and beyond in ("f", "fahrenheit"):
            return self._made(first, at + 2, "temperature", (value - 32) / 1.8, value)
        if unit in _UNITS and not self._suffix(at):
            dimension, factor = _UNITS[unit]
            return self._made(first, at + 1, dimension, value * factor, value)
        if text == "one":
            return None  # more often no number
        year = at == first + 1 and len(text) == 4 and text.isdecimal() and 1000 <= value < 2100
        return self._made(first, at, "year" if year else "number", value)

    def _suffix(self, at: int) -> bool:
        """Whether a letter is part of the word before it: "1990s", "5G"."""
        word = self._words[at]
        return word.start == self._words[at - 1].end and word.spelling in ("s", "G")

    def _month(self, at: int) -> int | None:
        """The month; "may" and "march" are also other words."""
        found = _MONTH.get(self._text(at))
        return None if found is None or self._words[at].spelling[0].islower() else found

    def _date(self, at: int) -> tuple[Quantity, int] | None:
        """14 May, 14th of May, May 14, 2024-05-14."""
        if iso := _ISO.fullmatch(self._text(at)):
            return self._made(at, at + 1, "date", 100.0 * int(iso[1]) + int(iso[2]))
        if (day := self._day(at)) is not None:
            after = at + 1
            while self._text(after) in ("st", "nd", "rd", "th", "of"):
                after += 1
            month = self._month(after)
            return None if month is None else self._made(at, after + 1, "date", 100.0 * month + day)
        month, day = self._month(at), self._day(at + 1)
        return None if month is None or day is None else self._made(at, at + 2, "date", 100.0 * month + day)

    def _day(self, at: int) -> int | None:
        text = self._text(at)
        return int(text) if text.isdecimal() and len(text) < 3 and 0 < int(text) < 32 else None

    def _clock(self, at: int) -> tuple[Quantity, int] | None:
        """7:30, 7.30 pm, 7 pm, seven o'clock, half past seven, quarter to eight, noon: minutes, modulo twelve hours."""
        text = self._text(at)
        if text in ("noon", "midday", "midnight"):
            return self._time(at, at + 1, 0)
        if text in ("half", "quarter") and self._text(at + 1) in ("past", "to"):
            hour, minutes = _hour(self._text(at + 2)), 30 if text == "half" else 15
            minutes *= 1 if self._text(at + 1) == "past" else -1
            return None if hour is None else self._time(at, at + 3, 60 * hour + minutes)
        after = at + 1
        for suffix in _SUFFIXES:
            if after == at + 1 and all(self._text(at + 1 + i) == part for i, part in enumerate(suffix)):
                after += len(suffix)
        if found := _TIME.fullmatch(text):
            hour, minutes = int(found[1]), int(found[2])
        elif after > at + 1:
            whole, _, rest = text.partition(".")
            hour, minutes = _hour(whole), int(rest) if rest.isdecimal() and len(rest) == 2 else 0
        else:
            return None
        if hour is None or hour > 24 or minutes > 59:
            return None
        return self._time(at, after, 60 * hour + minutes)

    def _time(self, first: int, after: int, minutes: int) -> tuple[Quantity, int]:
        """Its amount is what a bare number would be: 10.3 of "10:30"."""
        return self._made(first, after, "clock", float(minutes % 720), minutes // 60 + minutes % 60 / 100)


def _hour(word: str) -> int | None:
    value = float(word) if word.isdecimal() and len(word) < 3 else _WORDS.get(word, 0.0)
    return int(value) if 0 < value <= 24 else None
