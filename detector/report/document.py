"""One HTML page: its frame, and how it is put on disk. No script, nothing loaded from anywhere."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from groundwire import __version__
from groundwire.batch.paths import partial_path
from groundwire.errors import GroundwireError
from groundwire.report.markup import Html, el, html

# The browser is told as well: nothing on the page may load or run.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, head: Html, sections: Iterable[tuple[str, str, Html | None]], *, style: str = "") -> Html:
    """The whole page. sections: name for links, title, content; those without content are left out.

    style: CSS that is needed besides that of all pages.
    """
    shown = [(name, heading, content) for name, heading, content in sections if content]
    links = el("nav", *(el("a", heading, href=f"#{name}") for name, heading, _ in shown), aria_label="Sections")
    body = html(*(el("section", el("h2", heading), content, id=name) for name, heading, content in shown))
    common = files("groundwire.report").joinpath("style.css").read_text(encoding="utf-8")
    meta = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", title),
        el("style", Html(common + style)),
    )
    foot = el("footer", f"Made by groundwire {__version__}. This page runs no script and loads nothing.")
    body = el("body", el("main", head, links, body, foot))
    return html(Html("<!doctype html>\n"), el("html", meta, "\n", body, lang="en"), "\n")


def write_document(target: Path, text: str) -> None:
    """Put a page in place whole or not at all. Raises GroundwireError where writing fails."""
    partial = partial_path(target)
    try:
        # Line ends as they are: those of the texts shown are part of them.
        partial.write_text(text, encoding="utf-8", newline="")
        os.replace(partial, target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise GroundwireError(
            f"cannot write {str(partial)!r}: {error.strerror or error}",
            expected="a writable folder with room for the page",
            remedy="choose another output path, or free disk space",
        ) from error
