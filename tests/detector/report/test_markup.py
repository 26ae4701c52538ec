from __future__ import annotations

from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.report.markup import Html, bdi, count, details, el, html, percent, signed, table, visible

HOSTILE = "<script>alert(\"x\")</script> & 'quoted' <!-- --> </style> &lt; &#x3c;"


class Seen(HTMLParser):
    """The tags, attributes and text a browser would see."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


@given(st.text())
def test_text_stays_text_wherever_it_is_put(text):
    seen = Seen(el("p", text, title=text))
    assert seen.tags == ["p"]
    assert unescape(html(text)) == visible(text)
    assert seen.attributes == [("title", visible(text))]
    assert seen.text == visible(text)


@given(st.text())
def test_visible_is_one_for_one_and_can_be_written(text):
    assert len(visible(text)) == len(text)
    visible(text).encode()
    assert not set(map(chr, range(32))) - set("\t\n\r") & set(visible(text))


def test_controls_and_half_surrogates_are_shown():
    assert visible("\x00\x1b\x7f\x85\ud800\n") == "␀␛␡\ufffd\ufffd\n"


@pytest.mark.parametrize(
    "make", [bdi, lambda t: details(t, t), lambda t: table([t], [[t]]), lambda t: el("p", t, id=t)]
)
def test_no_helper_lets_markup_through(make):
    seen = Seen(make(HOSTILE))
    assert "script" not in seen.tags
    assert HOSTILE in seen.text


def test_markup_is_kept_none_left_out_and_attributes_spelt():
    made = el("p", Html("<b>x</b>"), None, "<", class_="a", aria_hidden="true", id=None)
    assert made == '<p class="a" aria-hidden="true"><b>x</b>&lt;</p>'
    assert el("br") == "<br>"


def test_joined_text_is_no_markup():
    """What is built with f-strings loses its type, and is escaped: the mistake shows, and harms nobody."""
    assert html(f"{el('b', 'x')}") == "&lt;b&gt;x&lt;/b&gt;"


def test_long_text_is_cut():
    assert bdi("abcdef", 3) == "<bdi>abc…</bdi>"
    assert bdi("abc", 3) == "<bdi>abc</bdi>"


def test_numbers_as_they_are_read():
    assert (percent(1, 8), percent(0, 0)) == ("12.5%", "–")
    assert (count(1, "row"), count(2000, "row")) == ("1 row", "2,000 rows")
    assert (signed(-0.5), signed(0.5)) == ("−0.50", "+0.50")
