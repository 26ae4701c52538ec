"""The section on accuracy: only labels can tell it, so without labels it says that it is unknown."""

from __future__ import annotations

import numpy as np

from groundwire.report.accuracy import Bin, auc, auc_interval, brier, reliability, wilson
from groundwire.report.charts import curve
from groundwire.report.markup import Html, count, details, el, html, percent, table
from groundwire.report.tally import Labelled, Tally

UNKNOWN = (
    "The accuracy of the detector on this data is unknown: no checked row has a label. How often it was right on other "
    "data does not say how often it is right here. To find out, label some rows, at best a random sample of them "
    '("label": 1 unfaithful, 0 faithful), and pass the file as --answers.'
)


def quality(tally: Tally) -> Html:
    """Figures and reliability curve of the labelled rows that were checked, or the words that there are none."""
    rows = tally.labelled
    number = len(rows.labels)
    if not number:
        return el("p", UNKNOWN, class_="warning")
    unfaithful = sum(rows.labels)
    lead = (
        f"Of {count(tally.all.checked, 'checked row')}, {number:,} have a label: {unfaithful:,} unfaithful, "
        f"{number - unfaithful:,} faithful. All figures here are of these rows, and hold for data like them; "
        "if the detector was trained on these rows, they flatter it."
    )
    unchecked = tally.all.labelled - number
    left = f" Labelled but not checked, and left out: {unchecked:,}." if unchecked else ""
    one = None
    if unfaithful in (0, number):
        one = el("p", "All labels are the same: how well scores separate them cannot be told.", class_="warning")
    return html(el("p", lead, left), one, el("div", _figures(rows), _curve(rows), class_="columns"))


def _figures(rows: Labelled) -> Html:
    labels, scores, flags = rows.ints("labels"), rows.floats("scores"), rows.ints("flags")
    groups, lengths = rows.ints("groups"), rows.floats("lengths")
    share = float(labels.mean())
    over = f"groups of rows ({rows.numbered:,})" if rows.named else "rows"
    lines = [
        ("AUC", _number(auc(labels, scores)), _range(auc_interval(labels, scores, groups)),
         "chance that an unfaithful answer scores above a faithful one; 0.5 is guessing. "
         f"Interval: bootstrap over {over}"),
        ("AUC of length alone", _number(auc(labels, lengths)), _range(auc_interval(labels, lengths, groups)),
         "for comparison: longer answers ranked as more suspicious, without any detector"),
        ("Brier score", f"{brier(labels, scores):.3f}", "",
         f"mean squared error of the scores, 0 is perfect; always saying {share:.2f} gives {share * (1 - share):.3f}"),
        _flagged("Flagged among unfaithful", flags[labels == 1], "unfaithful answers that are found"),
        _flagged("Flagged among faithful", flags[labels == 0], "false alarms"),
    ]  # fmt: skip
    cells = [
        [html(name, el("br"), el("span", words, class_="quiet")), el("b", value), between]
        for name, value, between, words in lines
    ]
    return table(["figure", "value", "95% interval"], cells, class_="figures")


def _flagged(name: str, flags: np.ndarray, words: str) -> tuple[str, str, str, str]:
    number, whole = int(flags.sum()), len(flags)
    between = _range(wilson(number, whole), percents=True) if whole else "–"
    return name, percent(number, whole), between, f"{words}: {number:,} of {whole:,}"


def _curve(rows: Labelled) -> Html:
    bins = reliability(rows.ints("labels"), rows.floats("scores"))
    told = (
        "Reliability: answers in bins of about equal size by score. On the dashed line a score means what it says; "
        "above it more answers are unfaithful than the scores say. Upright lines are 95% binomial intervals"
    )
    told += ", too narrow where the rows of a group are alike." if rows.named else "."
    numbers = table(["rows", "mean score", "labelled unfaithful", "95% interval"], map(_bin, bins))
    return el("figure", curve(bins), el("figcaption", told), details("The numbers", numbers))


def _bin(b: Bin) -> list[str]:
    share = f"{percent(b.unfaithful, b.rows)} ({b.unfaithful:,})"
    return [f"{b.rows:,}", f"{b.mean:.3f}", share, _range(b.interval, percents=True)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _range(interval: tuple[float, float] | None, *, percents: bool = False) -> str:
    if interval is None:
        return "–"
    low, high = interval
    return f"{low:.1%} – {high:.1%}" if percents else f"{low:.3f} – {high:.3f}"
