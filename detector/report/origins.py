"""Rows by generator, data set or any column, and the corrected rate of unfaithful answers, where labels allow one."""

from __future__ import annotations

from collections.abc import Mapping

from groundwire.counts import Counts, shown
from groundwire.errors import InputError
from groundwire.rates import UNKNOWN, Rate, check_sources
from groundwire.report.markup import Html, bdi, el, html, percent, table
from groundwire.report.tally import NONE, Tally

MOST_VALUES = 50
HOW = (
    "Estimated from the scores of all checked rows and the labels of some (prediction-powered inference): the labels "
    "say by how much the scores err. It holds where the labelled rows are a random sample, or carry the label_weight "
    "that `groundwire sample` gave them. Rows that were not checked are not part of it."
)


def overall(tally: Tally) -> Html:
    """The corrected rate of all checked rows, or the words that it is not known."""
    found, heading = corrected(tally), el("h3", "Rate of unfaithful answers among checked rows")
    if isinstance(found, str):
        return html(heading, el("p", f"{found}.", class_="warning"))
    alone = f"Labels alone give {found.alone[0]:.1%} to {found.alone[1]:.1%}. "
    words = el("p", alone, HOW, class_="quiet")
    return html(heading, el("p", "Corrected: ", el("b", shown(found))), words)


def corrected(tally: Tally) -> Rate | str:
    """The rate of the whole file; not where labels are of some values of a column only."""
    found = tally.all.corrected()
    if isinstance(found, Rate):
        for values in tally.by.values():
            try:
                check_sources({value: counts.evidence for value, counts in values.items()})
            except InputError as error:
                return f"{UNKNOWN} ({error.given})"
    return found


def breakdowns(tally: Tally) -> Html | None:
    """A table for each column that rows are counted by."""
    return html(*(_breakdown(column, values, bool(tally.all.labelled)) for column, values in tally.by.items())) or None


def _breakdown(column: str, values: Mapping[str, Counts], labels: bool) -> Html:
    ranked = sorted(values.items(), key=lambda item: (-item[1].rows, item[0]))
    head = [column, "rows", "not checked", "unlike training", "share flagged", ""]
    head += ["labelled unfaithful"] * labels + ["corrected rate of unfaithful answers"]
    rows = [_row(value, counts, labels) for value, counts in ranked[:MOST_VALUES]]
    left = len(ranked) - MOST_VALUES
    note = el("p", f"[ {left:,} further values with fewer rows left out ]", class_="note") if left > 0 else None
    return html(el("h3", "By ", bdi(column, 100)), table(head, rows, class_="by"), note)


def _row(value: str, counts: Counts, labels: bool) -> list[Html]:
    share = counts.flagged / counts.checked if counts.checked else 0.0
    rect = el("rect", x=0, y=2, width=f"{share:.2%}", height=10, class_="unfaithful")
    drawn = el("svg", el("rect", x=0, y=2, width="100%", height=10, class_="track"), rect, width=110, height=14)
    flagged = f"{percent(counts.flagged, counts.checked)} ({counts.flagged:,} of {counts.checked:,})"
    known = f"{percent(counts.unfaithful, counts.labelled)} ({counts.unfaithful:,} of {counts.labelled:,})"
    unlike = f"{percent(counts.unlike, counts.placed)} ({counts.unlike:,})" if counts.placed else "–"
    return [
        el("i", value) if value == NONE else bdi(value, 100),
        html(f"{counts.rows:,}"),
        _not_checked(counts),
        html(unlike),
        html(flagged),
        drawn,
        *([html(known)] * labels),
        html(shown(counts.corrected())),
    ]


def _not_checked(counts: Counts) -> Html:
    most = counts.reasons.most_common(5)
    reasons = [html(el("br"), el("span", f"{n:,} {reason[:60]}", class_="quiet")) for reason, n in most]
    return html(f"{counts.not_checked:,}", *reasons)
