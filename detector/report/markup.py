"""HTML that is safe by construction: whatever is not `Html` already is escaped on its way in."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = {"meta", "br"}
# What no page should hold raw: control characters become their pictures, half surrogate pairs cannot be written.
_PICTURES = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
    | {0x7F: 0x2421}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
    | dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
)


class Html(str):
    """Markup that may be inserted as it is. Every other `str` is text, and escaped."""


def visible(text: str) -> str:
    """`text` with control characters replaced, one for one: a page that holds them raw is not valid."""
    return text.translate(_PICTURES)


def html(*children: str | None) -> Html:
    """Children in a row: `Html` as it is, text escaped, None left out."""
    return Html("".join(c if isinstance(c, Html) else escape(visible(c)) for c in children if c is not None))


def el(name: str, /, *children: str | None, **attributes: object) -> Html:
    """An element. In attribute names "_" stands for "-" and a last "_" is dropped (`class_`); None leaves one out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(visible(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{html(*children)}</{name}>")


def bdi(text: str, limit: int | None = None) -> Html:
    """Text of others within a sentence: its writing direction ends where it ends. Cut after `limit` code points."""
    return el("bdi", text if limit is None or len(text) <= limit else text[:limit] + "…")


def table(head: Iterable[str], rows: Iterable[Iterable[str]], *, class_: str | None = None) -> Html:
    """A table; it scrolls sideways by itself where the page is narrow."""
    heads = html(*(el("th", cell, scope="col") for cell in head))
    body = html(*(el("tr", *(el("td", cell) for cell in row)) for row in rows))
    whole = el("table", el("thead", el("tr", heads)), el("tbody", body), class_=class_)
    return el("div", whole, class_="scroll")


def details(summary: str, *content: str, class_: str | None = None) -> Html:
    """Something folded away, opened without a script."""
    return el("details", el("summary", summary), *content, class_=class_)


def percent(part: int, whole: int) -> str:
    """`part` of `whole` as a percentage, a dash where there is no whole."""
    return f"{part / whole:.1%}" if whole else "–"


def count(number: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def signed(value: float) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.2f}".replace("-", "−")
