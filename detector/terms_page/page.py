"""The page of a detector's terms: what each can do to the score, the strongest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

from groundwire.artifact import Artifact
from groundwire.calibration import sigmoid
from groundwire.report.document import document
from groundwire.report.markup import Html, bdi, count, el, html, table
from groundwire.terms_page.cards import DIRECTIONS, NAME, card
from groundwire.terms_page.effects import Effect, effects
from groundwire.terms_page.latents import latent
from groundwire.terms_page.plots import number, overview, reach
from groundwire.types import KINDS

STRONGEST = 100  # latents that have a card
Ranked = Sequence[tuple[int, Effect]]
READING = {
    "Term": "One input of the detector. Intercept and the contributions of all terms sum to the log-odds of the score, "
    "which is the estimated probability that an answer is not faithful to its passages.",
    "Log-odds": "What is added multiplies the odds: +0.7 doubles them, −0.7 halves them, ±0.1 changes them by a tenth.",
    "Plot": "Across, the value of the term; up, what it adds. The line at 0 is where it says nothing. Circles are the "
    "shape's knots, where it bends or jumps; a line that ends level stays level. The dashed line, where there is one, "
    "is the mean over the training answers. Plots of a section share their vertical scale.",
    "Pre-activation": "What goes into a latent: the higher, the more strongly it fires; below 0 it does not fire, but "
    "how far below may still count.",
    "Direction": "Whether a higher value raises or lowers the score. It is the direction of this term beside all the "
    "others: alone it might point elsewhere.",
    "Names": "A latent is named by the tokens it fires on most in text without labels, and (after the arrow) by tokens "
    "its direction promotes in the model's output. These names are rough; they describe, they do not explain.",
}


def page(artifact: Artifact) -> Html:
    """The whole page. Raises ArtifactError where `features.json` is not what training writes."""
    ranked = list(enumerate(effects(artifact), 1))
    latents = [(rank, effect) for rank, effect in ranked if effect.term.kind == "latent"]
    others = [(rank, effect) for rank, effect in ranked if effect.term.kind != "latent"]
    shown, rest = latents[:STRONGEST], latents[STRONGEST:]
    sections = [
        ("summary", "Summary", _summary(artifact, ranked)),
        ("sizes", "How much each term can do", _sizes(ranked)),
        ("reading", "How to read this page", _reading()),
        ("others", "Grounding terms and residual directions", _cards(artifact, others)),
        ("latents", "Strongest latents" if rest else "Latents", _cards(artifact, shown)),
        ("rest", "All other latents", _rest(rest)),
    ]
    style = files("groundwire.terms_page").joinpath("style.css").read_text(encoding="utf-8")
    return document(f"Groundwire terms: {artifact.id}", _head(artifact), sections, style=style)


def _head(artifact: Artifact) -> Html:
    lead = (
        "Every term of this detector: what it looks at, and what it can do to the score. A term is evidence of the "
        "detector, not a cause of the model: it says how the detector reads a text, not why the model wrote it."
    )
    return el(
        "header",
        el("p", "Groundwire terms", class_="brand"),
        el("h1", bdi(artifact.id, NAME)),
        el("p", lead, class_="lead"),
    )


def _summary(artifact: Artifact, ranked: Ranked) -> Html:
    directions = Counter(effect.direction for _, effect in ranked)
    tiles = [_tile("terms", len(ranked), _kinds(ranked))]
    tiles.append(_tile(DIRECTIONS["raises"], directions["raises"], "higher values make a text look less faithful"))
    tiles.append(_tile(DIRECTIONS["lowers"], directions["lowers"], "higher values make a text look more faithful"))
    if neither := directions["mixed"] + directions["flat"]:
        tiles.append(_tile("neither", neither, "raise and lower it, or move nothing"))
    intercept = artifact.scorer.intercept
    values = {
        "version": artifact.version,
        "model": artifact.model,
        "hookpoint": artifact.hookpoint,
        "intercept": f"{number(intercept)}, a score of {sigmoid(intercept):.2f} where all terms say nothing",
    }
    items = (el("div", el("dt", name), el("dd", bdi(value, NAME))) for name, value in values.items())
    return html(
        el("div", *tiles, class_="tiles"),
        el("h3", "Detector"),
        el("dl", *items),
        el("h3", "From tokens to an answer"),
        el("p", _pooling(artifact)),
    )


def _kinds(ranked: Ranked) -> str:
    kinds = Counter(effect.term.kind for _, effect in ranked)
    return ", ".join(f"{kinds[kind]:,} {kind}" for kind in KINDS if kinds[kind])


def _tile(name: str, value: int, words: str) -> Html:
    return el("div", el("h3", name), el("b", f"{value:,}"), el("p", words), class_="tile")


def _pooling(artifact: Artifact) -> str:
    pooling = artifact.scorer.pooling
    if pooling.kind == "max":
        return (
            "Of every latent the highest value in the answer counts, wherever it stands: one token is enough. "
            "The log-odds on this page are those it adds to the answer's."
        )
    times = "" if pooling.window_weight == 1 else f"{pooling.window_weight:g} times "
    mean = f", and {pooling.mean_weight:g} times their mean over all tokens" if pooling.mean_weight else ""
    single = "" if mean else f"; a single token brings 1/{pooling.window} of them"
    return (
        f"An answer takes {times}the mean of its tokens' contributions over the {pooling.window} tokens in a row that "
        f"look worst{mean}. The log-odds on this page are those a term adds to the answer's where all these tokens "
        f"have the same value{single}. Grounding terms are of the whole answer and count in full."
    )


def _sizes(ranked: Ranked) -> Html | None:
    if not ranked:
        return None
    lead = (
        "A column for each term, as long as the most it can move the log-odds: upwards where the term raises the "
        "score, downwards where it lowers it. Thin columns are latents, by size. Wide ones, with their rank among all "
        "terms, are grounding terms and residual directions."
    )
    all_effects = [effect for _, effect in ranked]
    head = ["kind", "terms", "raise", "lower", "largest effect", "median"]
    rows = [_kind_row(kind, [e for e in all_effects if e.term.kind == kind]) for kind in KINDS]
    return html(el("p", lead), overview(all_effects), table(head, [row for row in rows if row], class_="sizes"))


def _kind_row(kind: str, found: Sequence[Effect]) -> list[str]:
    if not found:
        return []
    ways = Counter(effect.direction for effect in found)
    sizes = [f"{size:.3f}" for size in (found[0].largest, found[len(found) // 2].largest)]
    return [kind, f"{len(found):,}", f"{ways['raises']:,}", f"{ways['lowers']:,}", *sizes]


def _reading() -> Html:
    return el("dl", *(el("div", el("dt", name), el("dd", words)) for name, words in READING.items()), class_="reading")


def _cards(artifact: Artifact, ranked: Ranked) -> Html | None:
    if not ranked:
        return None
    low, high = min(effect.low for _, effect in ranked), max(effect.high for _, effect in ranked)
    made = (card(rank, effect, latent(artifact.latents, effect.term.feature_id), low, high) for rank, effect in ranked)
    return html(*made)


def _rest(ranked: Ranked) -> Html | None:
    if not ranked:
        return None
    largest = max(effect.largest for _, effect in ranked)
    rows = [
        [
            f"{rank}",
            f"{effect.term.feature_id}",
            bdi(effect.term.name, NAME),
            DIRECTIONS[effect.direction].removesuffix(" the score"),
            f"{number(effect.low)} to {number(effect.high)}",
            reach(effect, largest),
        ]
        for rank, effect in ranked
    ]
    lead = f"{count(len(ranked), 'latent')} that can do less than those above, the strongest first."
    head = ["rank", "latent", "label", "direction", "adds (log-odds)", "around 0"]
    return html(el("p", lead), table(head, rows, class_="rest"))
