from __future__ import annotations

import os
import re
from html import unescape

import pytest

from groundwire.errors import GroundwireError
from groundwire.report.document import document, write_document
from groundwire.report.markup import Html, el


def test_sections_without_content_are_neither_shown_nor_linked():
    sections = [("one", "The one & only", el("p", "here")), ("two", "Two", None), ("three", "Three", Html(""))]
    made = document("a < b", el("header", "head"), sections)
    assert "<title>a &lt; b</title>" in made
    assert re.findall('href="([^"]*)"', made) == ["#one"]
    assert re.findall(' id="([^"]*)"', made) == ["one"]
    assert "<h2>The one &amp; only</h2><p>here</p>" in made


def test_the_browser_is_told_to_load_nothing():
    made = unescape(document("t", el("p"), []))
    assert "Content-Security-Policy" in made
    assert "default-src 'none'; style-src 'unsafe-inline'" in made


def test_a_page_s_own_style_comes_after_that_of_all():
    made = document("t", el("p"), [], style=".mine > p { color: red; }")
    style = made[made.index("<style>") : made.index("</style>")]
    assert ":root" in style
    assert style.endswith(".mine > p { color: red; }")


def test_line_ends_stay_as_they_are(tmp_path):
    write_document(tmp_path / "p.html", "a\r\nb\rc\n")
    assert (tmp_path / "p.html").read_bytes() == b"a\r\nb\rc\n"


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "p.html").write_text("before")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GroundwireError, match="No space left"):
        write_document(tmp_path / "p.html", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]
    assert (tmp_path / "p.html").read_text() == "before"
