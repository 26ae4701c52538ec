"""Quantities: the same however it is written, apart where it is not, and read in linear time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.quantities import MOST, Quantity, follows, quantities


def read(text: str) -> list[tuple[str, float]]:
    return [(q.dimension, round(q.value, 2)) for q in quantities(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Wait 90 minutes at 7.30 pm.", [("duration", 5400), ("clock", 450)]),
        ("half past seven in the evening, 19:30, a quarter to eight, noon", [("clock", n) for n in (450, 450, 465, 0)]),
        ("seven o'clock, 8 a.m., 9pm", [("clock", n) for n in (420, 480, 540)]),
        ("€44.8 million, 44.8 million euros, £290, 30 cents", [("money", n) for n in (44.8e6, 44.8e6, 290, 0.3)]),
        ("on 14 May 1931, May 14, the 3rd of June", [("date", 514), ("year", 1931), ("date", 514), ("date", 603)]),
        ("twenty-five, two hundred, a dozen, 5k, 3,000", [("number", n) for n in (25, 200, 12, 5000, 3000)]),
        ("20%, 20 per cent, one third, two thirds, half of it", [("share", n) for n in (20, 20, 33.33, 66.67, 50)]),
        ("33 degrees, 91.4 °F, 33 °C", [("temperature", 33)] * 3),
        ("130 mm, 13 cm, 5 m", [("length", 0.13), ("length", 0.13), ("length", 5)]),
        ("1,200 grams, 1.2 kg, 330 ml, 1 GB", [("mass", 1200), ("mass", 1200), ("volume", 0.33), ("data", 1e6)]),
        ("4 weeks, 28 days, a fortnight", [("duration", 2419200.0)] * 2),
        ("You may wait. One of them. The second half-time. x 25:99. A third party.", []),
        ("Up to 20 may march 5 miles on 2024-05-14", [("number", 20), ("length", 8046.7), ("date", 514)]),
        ("a 10m pool for $1.2 bn or £5m", [("length", 10), ("money", 1.2e9), ("money", 5e6)]),
        ("half an hour, two and a half years", [("duration", 1800), ("duration", 2.5 * 365 * 86400)]),
        ("two hundred and fifty, 10\u00a0000, -4 °F", [("number", 250), ("number", 10000), ("temperature", -20)]),
        ("in the 1990s, 5G", [("year", 1990), ("number", 5)]),
        ("", []),
    ],
)
def test_what_is_read(text, found):
    assert read(text) == pytest.approx(found) if not found else read(text) == [(d, pytest.approx(v)) for d, v in found]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("4 weeks", "28 days", True),
        ("2 miles", "3.2 km", True),
        ("4 weeks", "35 days", False),
        ("19:30", "half past seven", True),
        ("half of", "50 %", True),
        ("1500", "1,500", True),
        ("10:30", "10.30", True),
        ("98 kg", "99 kg", False),
        ("1980s", "1990s", False),
        ("1931", "1932", False),
        ("30 minutes", "30 hours", False),
        ("30 days", "30 percent", False),
        ("4.6 million", "4.6 million euros", True),
        ("30", "30 minutes", True),
        ("14", "14 May", False),
        ("1,001", "1,002", False),
        ("100 grams", "101 grams", False),
        ("1 mile", "1.6 km", True),  # rounding
    ],
)
def test_what_is_the_same(one, other, same):
    (a,), (b,) = quantities(one), quantities(other)
    assert a.equals(b) is b.equals(a) is same


@pytest.mark.parametrize(
    ("said", "given_", "does"),
    [
        ("30 euros", "12 euros and 18 euros", True),
        ("6 euros", "12 euros and 18 euros", True),
        ("36 euros", "3 tickets at 12 euros", True),
        ("25 %", "20 of 80", True),
        ("40 %", "60 %", True),
        ("33 euros", "12 euros and 18 euros", False),
        ("2 hours", "90 minutes and half an hour, 30 minutes", True),
        ("14 May", "12 May and 2 May", False),
        ("12.1 million", "4.6 million euros and 7.5 million", True),
        ("1950", "1931", False),
    ],
)
def test_what_follows(said, given_, does):
    (quantity,) = quantities(said)
    assert follows(quantity, list(quantities(given_))) is does


def test_an_article_is_one_where_it_may_be():
    assert read("within a week") == []
    assert [q.value for q in quantities("within a week", articles=True)] == [7 * 86400]


def test_only_the_first_quantities_are_combined():
    many = [Quantity(0, 1, "money", float(3**i), float(3**i)) for i in range(MOST + 2)]
    assert follows(many[0]._replace(value=many[0].value + many[1].value), many)
    assert not follows(many[0]._replace(value=many[MOST].value + many[MOST + 1].value), many)


PARTS = [
    "3",
    "twenty",
    "five",
    "million",
    "€",
    "half",
    "past",
    "may",
    "14",
    "19:30",
    "am",
    "%",
    "per",
    "cent",
    " ",
    ".",
]
TEXTS = st.lists(st.sampled_from([*PARTS, "°", "f", "1931", "²", "٣"]), max_size=30)


@given(TEXTS.map(" ".join) | TEXTS.map("".join) | st.text(max_size=60), st.data())
def test_they_lie_in_order_apart_and_within(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    at = start
    for quantity in quantities(text, start, end):
        assert at <= quantity.start < quantity.end <= end
        assert quantity.value == quantity.value  # no NaN
        assert quantity.equals(quantity)
        at = quantity.end
