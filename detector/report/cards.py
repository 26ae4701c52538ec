"""The most suspicious answers: each with its spans marked, its evidence, and the terms behind its score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from groundwire.report.answers import Answer
from groundwire.report.charts import bar, meter, stack
from groundwire.report.markup import Html, bdi, count, details, el, html, signed
from groundwire.report.rows import KINDS, Scored
from groundwire.report.tally import Pair
from groundwire.types import Contribution, Message, Span

# In code points: a page stays readable, and of bounded size, whatever was scored.
ANSWER, PROMPT_HEAD, PROMPT_TAIL, SNIPPET, NAME, QUOTE = 8000, 4000, 2000, 600, 160, 90
MOST = 30  # spans, terms or messages of one answer


def cards(pairs: Sequence[Pair]) -> Html:
    """A card for every pair; bars of terms share one scale, so that they compare across cards."""
    largest = max((abs(t.contribution) for row, _ in pairs for t in row.terms[:MOST]), default=0.0)
    return html(*(card(rank, row, answer, largest) for rank, (row, answer) in enumerate(pairs, 1)))


def card(rank: int, row: Scored, answer: Answer | None, largest: float) -> Html:
    return el(
        "article",
        _head(rank, row, answer),
        _text(row, answer),
        _prompt(answer.messages) if answer and answer.messages else None,
        el("div", _evidence(row.spans, SNIPPET if answer is None else QUOTE), _terms(row, largest), class_="why"),
        class_="card",
    )


def highlighted(text: str, spans: Iterable[Span]) -> Html:
    """`text` with its spans marked and numbered, in the order given; marks never nest, and add no character.

    Offsets are code points; what lies outside the text, or inside an earlier mark, is not marked.
    """
    parts: list[str] = []
    done = 0
    for start, end, number in sorted((span.start, span.end, i) for i, span in enumerate(spans, 1)):
        start, end = max(start, done), min(end, len(text))
        if start < end:
            parts += [text[done:start], el("mark", text[start:end], data_n=number)]
            done = end
    return html(*parts, text[done:])


def kind_sums(row: Scored) -> Mapping[str, float]:
    """Contributions (log-odds) summed per kind of term: of all terms where the row says so, else of those it lists."""
    sums = row.shares
    if sums is None:
        sums = {kind: sum(t.contribution for t in row.terms if t.term.kind == kind) for kind in KINDS}
    return {kind: value for kind, value in sums.items() if value}


def _head(rank: int, row: Scored, answer: Answer | None) -> Html:
    badges = [el("span", "flagged", class_="badge hot") if row.flagged else el("span", "not flagged", class_="badge")]
    if answer and answer.label is not None:
        name = "unfaithful" if answer.label else "faithful"
        badges.append(el("span", f"labelled {name}", class_=f"badge {name}"))
    if row.unlike and row.unlike.flag:
        badges.append(el("span", "unlike training", class_="badge", title=_how_unlike(row)))
    source = [answer.columns[c] for c in ("dataset", "generator") if c in answer.columns] if answer else []
    about = html(*(html(" · ", bdi(value, NAME)) for value in source))
    score = row.score or 0.0
    return el(
        "header",
        el("h3", el("span", f"{rank}", class_="rank"), bdi(str(row.id), NAME)),
        el("p", f"line {row.line}", about, class_="source"),
        el("div", el("b", f"{score:.2f}"), meter(score, row.threshold), class_="score"),
        el("p", *badges, class_="badges"),
    )


def _how_unlike(row: Scored) -> str:
    unlike = row.unlike
    values = (("distance", unlike.distance), ("quantile", unlike.quantile)) if unlike else ()
    return ", ".join(f"{name} {value:.3g}" for name, value in values if value is not None)


def _text(row: Scored, answer: Answer | None) -> Html:
    if answer is None or answer.text is None:
        return el("p", "The text of this answer is not known here: pass --answers to see it.", class_="note")
    shown = answer.text[:ANSWER]
    block = el("div", highlighted(shown, row.spans[:MOST]), class_="answer", dir="auto")
    return html(block, _left_out(len(answer.text) - len(shown), "characters of this answer"))


def _prompt(messages: Sequence[Message]) -> Html:
    size = sum(len(message["content"]) for message in messages)
    body = [
        html(
            el("h4", message["role"][:NAME]) if len(messages) > 1 else None,
            el("div", _cut_inside(message["content"]), class_="prompt", dir="auto"),
        )
        for message in messages[-MOST:]
    ]
    return details(f"Question and passages ({count(size, 'character')})", *body)


def _cut_inside(text: str) -> Html:
    """The beginning and the end of a long text: a question stands at either."""
    if len(text) <= PROMPT_HEAD + PROMPT_TAIL:
        return html(text)
    gap = el("p", f"[ {len(text) - PROMPT_HEAD - PROMPT_TAIL:,} characters left out here ]", class_="note", dir="ltr")
    return html(text[:PROMPT_HEAD], gap, text[-PROMPT_TAIL:])


def _evidence(spans: Sequence[Span], quote: int) -> Html:
    if not spans:
        return el("section", el("h4", "Spans"), el("p", "No characters are marked: the score is of the whole answer."))
    items = [_one_evidence(span, quote) for span in spans[:MOST]]
    left = _left_out(len(spans) - MOST, "spans")
    return el("section", el("h4", "Spans, and the nearest passage text"), el("ol", *items, class_="spans"), left)


def _one_evidence(span: Span, quote: int) -> Html:
    text = el("q", bdi(" ".join(span.text.split()), quote))
    head = html(text, el("span", f" score {span.score:.2f}", class_="quiet"))
    found = span.evidence
    if span.reason:
        head = html(head, el("div", bdi(span.reason, QUOTE)))
    if found is None:
        return el("li", head, el("div", "no passage text given", class_="quiet"))
    name, similarity = found.get("passage_id"), found.get("similarity")
    source = html("passage ", bdi(str(name), NAME)) if isinstance(name, str | int) else "passage"
    near = f", similarity {similarity:.2f}" if similarity is not None else None
    nearest = el("blockquote", found["text"][:SNIPPET], "…" if len(found["text"]) > SNIPPET else None, dir="auto")
    return el("li", head, el("div", source, near, class_="quiet"), nearest)


def _terms(row: Scored, largest: float) -> Html:
    shown = row.terms[:MOST]
    lines = [_term(term, largest) for term in shown]
    hidden = sum(t.contribution for t in row.terms[MOST:])
    rest = [("terms not listed", None if row.other is None else row.other + hidden), ("intercept", row.intercept)]
    sums = [_sum_line(name, value) for name, value in rest if value is not None]
    logit = _sum_line("= log-odds of the score", row.logit, "total") if row.logit is not None else None
    scale = el("tr", el("th"), el("th", el("span", "← faithful"), el("span", "unfaithful →")), el("th"), class_="scale")
    whole = el("table", scale, *lines, *sums, logit, class_="terms")
    return el("section", el("h4", "What moved the score, in log-odds"), _kinds(row), whole)


def _term(term: Contribution, largest: float) -> Html:
    token = html(" at ", el("code", bdi(term.token, NAME))) if term.token is not None else None
    number = f" {term.term.feature_id}" if term.term.feature_id is not None else ""
    origin = el("span", f"{term.term.kind}{number}", token, class_="quiet")
    name = el("td", bdi(term.term.name, NAME), el("br"), origin)
    return el("tr", name, el("td", bar(term.contribution, largest)), el("td", signed(term.contribution), class_="num"))


def _sum_line(name: str, value: float, class_: str | None = None) -> Html:
    return el("tr", el("td", name), el("td"), el("td", signed(value), class_="num"), class_=class_ or "sum")


def _kinds(row: Scored) -> Html | None:
    sums = kind_sums(row)
    whole = sum(abs(value) for value in sums.values())
    if not whole:
        return None
    items = [
        el("li", el("i", class_=f"key kind-{kind}"), f"{kind} {abs(value) / whole:.0%} ({signed(value)})")
        for kind, value in sums.items()
    ]
    known = "all terms" if row.shares is not None else f"the {count(len(row.terms), 'term')} listed"
    said = el("p", f"Share of each kind of term, of {known}:", class_="quiet")
    return el("div", said, stack(sums), el("ul", *items, class_="legend"), class_="kinds")


def _left_out(number: int, what: str) -> Html | None:
    return el("p", f"[ {number:,} further {what} left out ]", class_="note") if number > 0 else None
