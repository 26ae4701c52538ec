"""The page: what was counted, told from the top. One file, no script, nothing loaded from anywhere."""

from __future__ import annotations

from groundwire.report.cards import cards
from groundwire.report.charts import histogram, legend
from groundwire.report.document import document
from groundwire.report.markup import Html, bdi, count, details, el, html, percent, table
from groundwire.report.origins import breakdowns, overall
from groundwire.report.quality import quality
from groundwire.report.reading import REASONS, reading
from groundwire.report.tally import BINS, Tally


def page(tally: Tally, *, scored: str, answers: str | None = None) -> Html:
    """The whole page. scored, answers: names of the files, to be shown."""
    sections = [
        ("summary", "Summary", _summary(tally)),
        ("scores", "Distribution of scores", _scores(tally)),
        ("accuracy", "How often it is right", quality(tally)),
        ("answers", "Most suspicious answers", _answers(tally)),
        ("by", "By origin", breakdowns(tally)),
        ("reading", "How to read this page", reading()),
    ]
    return document(f"Groundwire report: {scored}", _head(tally, scored, answers), sections)


def _head(tally: Tally, scored: str, answers: str | None) -> Html:
    source = html(el("code", scored), *(() if answers is None else (" with texts from ", el("code", answers))))
    lead = (
        "Do these answers stay with the passages they were given? A detector read each of them next to its passages. "
        "Its score is the estimated probability that the answer is not faithful to them."
    )
    return el("header", el("p", "Groundwire report", class_="brand"), el("h1", source), el("p", lead, class_="lead"))


def _summary(tally: Tally) -> Html:
    total = tally.all
    tiles = [
        _tile("rows", f"{total.rows:,}", f"{total.checked:,} checked"),
        _tile(
            "share flagged",
            percent(total.flagged, total.checked),
            f"{total.flagged:,} of {total.checked:,} checked. Not the rate of hallucination: the detector errs",
            "hot",
        ),
        _tile("not checked", f"{total.not_checked:,}", "never counted as clean"),
    ]
    if total.placed:
        tiles.append(_tile("unlike training", f"{total.unlike:,}", "rows far from what the detector was trained on"))
    return html(el("div", *tiles, class_="tiles"), overall(tally), _not_checked(tally), _detectors(tally))


def _tile(name: str, number: str, words: str, class_: str = "") -> Html:
    return el("div", el("h3", name), el("b", number), el("p", words), class_=f"tile {class_}".strip())


def _not_checked(tally: Tally) -> Html | None:
    if not tally.all.reasons:
        return None
    rows = [[el("code", r[:60]), REASONS.get(r, ""), f"{n:,}"] for r, n in tally.all.reasons.most_common(20)]
    return html(el("h3", "Not checked, and why"), table(["reason", "meaning", "rows"], rows))


def _detectors(tally: Tally) -> Html | None:
    if not tally.detectors:
        return el("p", "The file does not say which detector was used.", class_="note")
    names = ("id", "version", "model", "hookpoint")
    several = len(tally.detectors) > 1 or len(tally.thresholds) > 1
    ids = tally.detectors.most_common(1)[0][0]
    values = [*zip(names, ids, strict=True), ("threshold", _thresholds(tally))]
    items = (el("div", el("dt", name), el("dd", bdi(value, 200))) for name, value in values)
    warning = (
        "Rows of this file come from several detectors or thresholds, of which the most frequent is shown: "
        "their scores do not compare, and figures of the whole file mix them."
    )
    note = el("p", warning, class_="warning") if several else None
    return html(el("h3", "Detector"), el("dl", *items), note)


def _thresholds(tally: Tally) -> str:
    return ", ".join(f"{value:.4g}" for value, _ in tally.thresholds.most_common(5)) or "–"


def _scores(tally: Tally) -> Html:
    if not tally.all.checked:
        return _no_scores()
    threshold = next(iter(tally.thresholds)) if len(tally.thresholds) == 1 else None
    counts = tally.histogram
    key = legend(counts) if tally.all.labelled else None
    totals = [
        [f"{i / BINS:.2f} – {(i + 1) / BINS:.2f}", *(f"{counts[k][i]:,}" for k in (1, 0, None))] for i in range(BINS)
    ]
    head = ["score", "labelled unfaithful", "labelled faithful", "no label"]
    return html(key, histogram(counts, threshold), details("The numbers", table(head, totals)))


def _answers(tally: Tally) -> Html | None:
    if not tally.all.checked:
        return _no_scores()
    highest = tally.highest
    if not highest:
        return None
    lead = (
        f"The {count(len(highest), 'answer')} with the highest scores, flagged or not. Numbered marks are the spans "
        "the detector suspects most; the verdict is on the whole answer."
    )
    return html(el("p", lead), cards(highest))


def _no_scores() -> Html:
    return el("p", "No answer was checked, so there are no scores. This says nothing about the answers.", class_="note")
