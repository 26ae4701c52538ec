"""A term of a detector as a card: its shape, what it does to the score in words, where it fires."""

from __future__ import annotations

from collections.abc import Sequence

from groundwire.report.markup import Html, bdi, el, html
from groundwire.terms_page.effects import Effect
from groundwire.terms_page.latents import Example, Latent
from groundwire.terms_page.plots import number, shape_plot

NAME, TEXT = 200, 160  # code points: a card stays readable, whatever the artifact holds
MOST = 12  # tokens or examples of a latent
# By direction: a sign that needs no colour, and two or three words.
DIRECTIONS = {
    "raises": "▲ raises the score",
    "lowers": "▼ lowers the score",
    "mixed": "◆ raises and lowers the score",
    "flat": "■ moves nothing",
}
HIGHER = {
    "latent": "The stronger this latent",
    "residual": "The further along this direction",
    "grounding": "The more of this",
}
MEANS = {
    "raises": ", the less faithful the text looks to the detector.",
    "lowers": ", the more faithful the text looks to the detector.",
    "mixed": ", the less faithful the text looks in one range, the more faithful in another: see the plot.",
    "flat": " or the weaker, the detector finds the text the same.",
}


def card(rank: int, effect: Effect, known: Latent | None, low: float, high: float) -> Html:
    """The card of one term; `low` and `high` bound the log-odds of all plots beside it."""
    term = effect.term
    origin = term.kind if term.feature_id is None else f"{term.kind} {term.feature_id}"
    head = el(
        "header",
        el("h3", el("span", f"{rank}", class_="rank"), bdi(term.name, NAME)),
        el("p", origin, class_="source"),
        el("p", el("span", DIRECTIONS[effect.direction], class_=f"badge {effect.direction}"), class_="badges"),
    )
    plot = el("div", shape_plot(effect, low, high))
    words = el("div", *_moves(effect), *_fires(known) if known else _unknown(effect))
    return el("article", head, el("div", plot, words, class_="term"), class_="card")


def _moves(effect: Effect) -> list[Html]:
    most = number(effect.largest).removeprefix("+")
    said = f"At most {most} log-odds: from {number(effect.low)} to {number(effect.high)}."
    on = "" if effect.bounded else " Beyond the plot it goes on in the same direction, without a limit."
    means = MEANS[effect.direction]
    if effect.direction in ("raises", "lowers") and not effect.steady:
        means += " So it is on the whole: the plot shows where it turns back."
    return [el("p", HIGHER[effect.term.kind] + means), el("p", el("b", said), on)]


def _fires(known: Latent) -> list[Html]:
    parts = []
    if known.examples:
        items = [_example(example) for example in known.examples[:MOST]]
        parts += [el("h4", "Fires most on"), el("ul", *items, class_="examples")]
    if tokens := _tokens(known.top_tokens):
        parts.append(el("p", el("span", "Strongest tokens ", class_="quiet"), tokens))
    if tokens := _tokens(known.promotes):
        parts.append(el("p", el("span", "Promotes ", class_="quiet"), tokens))
    return parts


def _unknown(effect: Effect) -> list[Html]:
    if effect.term.kind != "latent":
        return []
    return [el("p", "The detector's files do not say where this latent fires.", class_="note")]


def _example(example: Example) -> Html:
    strength = el("span", f" {example.activation:.1f}", class_="quiet")
    token = _plain(example.token)[:TEXT]
    marked = token.lstrip(" ") or token
    before = _plain(example.before)[-TEXT:] + token[: len(token) - len(marked)]
    return el("li", before, el("mark", marked), _plain(example.after)[:TEXT], strength, dir="auto")


def _tokens(tokens: Sequence[str]) -> Html | None:
    """Tokens in their order; those that differ in white space alone once."""
    seen = dict.fromkeys(_plain(token).strip() or "␣" for token in tokens)
    return html(*(html(el("code", token[:TEXT]), " ") for token in list(seen)[:MOST])) if seen else None


def _plain(text: str) -> str:
    """Line ends as a sign, so that an example stays a line."""
    return text.replace("\n", "⏎")
