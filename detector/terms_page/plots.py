"""A term's shape, and the sizes of all of them, as inline SVG. Nothing is told by colour alone.

Across, everything is placed in per cent, so that a narrow page never shrinks the letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from groundwire.report.markup import Html, el, html
from groundwire.terms_page.effects import Effect

LEFT, WIDTH = 14.0, 83.0  # a shape's plot, in per cent of the chart's width
TOP, FLOOR = 24, 168  # in pixels from above
COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MOST_KNOTS = 24  # marked one by one; an EBM's table has more
EDGE, SIDE = 36, 110  # the overview: room above and below, height of its higher half, in pixels
# Where its columns begin, one of a term that is no latent, and all of these at most: in per cent.
START, WIDE, WIDEST = 11.0, 4.0, 48.0


def shape_plot(effect: Effect, low: float, high: float) -> Html:
    """Contribution against the term's value; the plots of a page share `low` and `high`, and so compare."""
    (start, _), *_, (end, _) = effect.points
    low, high = _room(low, high)

    def x(value: float) -> float:
        return (value - start) / (end - start)

    def y(value: float) -> float:
        return (high - value) / (high - low)

    parts = [_level(value, y(value)) for value in ticks(low, high)]
    parts += [_upright(x(at), words, "grid") for at, words in _value_ticks(effect, start, end)]
    if effect.mean is not None and start <= effect.mean <= end:
        parts.append(
            _upright(x(effect.mean), "", "mean", el("title", f"mean over the training answers: {effect.mean:.2f}"))
        )
    line = " ".join(f"{x(a) * 1000:.1f},{y(b) * 1000:.1f}" for a, b in effect.points)
    drawn = el("polyline", points=line, class_=f"shape {effect.direction}", vector_effect="non-scaling-stroke")
    box = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "width": f"{WIDTH}%", "height": FLOOR - TOP}
    parts.append(el("svg", drawn, x=f"{LEFT}%", y=TOP, overflow="visible", **box))
    if len(effect.knots) <= MOST_KNOTS:
        parts += [_knot(at, value, x(at), y(value)) for at, value in effect.points if at in effect.knots]
    parts.append(el("text", "log-odds added", x=0, y=12, class_="name"))
    parts.append(el("text", effect.axis, x=_across(0.5), y=FLOOR + 36, text_anchor="middle", class_="name"))
    said = f"Contribution of this term against its {effect.axis}: from {number(effect.low)} to {number(effect.high)}"
    return el("svg", *parts, width="100%", height=FLOOR + 42, role="img", aria_label=said, class_="chart")


def overview(effects: Sequence[Effect]) -> Html:
    """The largest effect of every term: upwards where it raises the score, downwards where it lowers it.

    effects: by size. What is no latent has a wide column, with its rank beside it.
    """
    sides = [[(rank, e) for rank, e in enumerate(effects, 1) if _up(e) == up] for up in (True, False)]
    most = [max((e.largest for _, e in side), default=0.0) for side in sides]
    unit = SIDE / (max(most) or 1.0)
    zero = EDGE + most[0] * unit
    bottom = zero + most[1] * unit + EDGE
    wide, thin = ([sum((e.term.kind == "latent") == is_thin for _, e in s) for s in sides] for is_thin in (False, True))
    column = min(WIDE, WIDEST / max(1, *wide))
    first = START + max(wide) * column + (1.5 if any(wide) else 0.0)
    width = (99.0 - first) / max(1, *thin)
    parts = [_size_line(value, zero - value * unit) for value in ticks(-most[1], most[0] or 1.0, 7)]
    for side in sides:
        others = [(rank, e) for rank, e in side if e.term.kind != "latent"]
        latents = [(rank, e) for rank, e in side if e.term.kind == "latent"]
        parts += [
            _wide_size(rank, e, START + i * column, column * 0.8, zero, unit) for i, (rank, e) in enumerate(others)
        ]
        parts += [_size(rank, e, first + i * width, width * 0.9, zero, unit) for i, (rank, e) in enumerate(latents)]
    parts.append(el("text", "raise the score ↑", x="99%", y=14, text_anchor="end", class_="name"))
    parts.append(el("text", "lower the score ↓", x="99%", y=_n(bottom - 6), text_anchor="end", class_="name"))
    parts.append(el("text", "largest effect, log-odds", x=0, y=14, class_="name"))
    said = f"The largest effect of each of {len(effects):,} terms, by rank"
    return el("svg", *parts, width="100%", height=_n(bottom), role="img", aria_label=said, class_="chart")


def reach(effect: Effect, largest: float) -> Html:
    """From the least to the most a term adds, around a line at nothing; `largest` fills a side."""
    ends = [50 + 50 * value / largest if largest else 50.0 for value in (min(0.0, effect.low), max(0.0, effect.high))]
    rect = el("rect", x=f"{ends[0]:.1f}%", y=2, width=f"{ends[1] - ends[0]:.1f}%", height=8, class_="plain")
    middle = el("line", x1="50%", x2="50%", y1=0, y2=12, class_="zero")
    return el("svg", rect, middle, width=90, height=12, aria_hidden="true")


def number(value: float) -> str:
    """Log-odds with their sign, a true minus."""
    rounded = round(value, 3)
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` (2 or more) round numbers, evenly spaced, from `low` to `high`; 0 is one where it lies there."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * power) <= most - 1 + 1e-9)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _up(effect: Effect) -> bool:
    return effect.direction == "raises" or (effect.direction != "lowers" and effect.high >= -effect.low)


def _room(low: float, high: float) -> tuple[float, float]:
    """The range with nothing in it and a little room at either end."""
    low, high = min(low, 0.0), max(high, 0.0)
    room = (high - low) * 0.06 or 1.0
    return low - room, high + room


def _value_ticks(effect: Effect, start: float, end: float) -> list[tuple[float, str]]:
    if effect.counted:
        return [(math.log1p(count), f"{count}") for count in COUNTS if start <= math.log1p(count) <= end]
    return [(value, f"{value:.6g}".replace("-", "−")) for value in ticks(start, end)]


def _level(value: float, y: float) -> Html:
    at = TOP + y * (FLOOR - TOP)
    zero = abs(value) < 1e-12
    words = "0" if zero else f"{value:+.6g}".replace("-", "−")
    line = el("line", x1=_across(0.0), x2=_across(1.0), y1=_n(at), y2=_n(at), class_="zero" if zero else "grid")
    return html(line, el("text", words, x=f"{LEFT - 1.5:g}%", y=_n(at + 4), text_anchor="end"))


def _upright(x: float, words: str, name: str, title: Html | None = None) -> Html:
    line = el("line", title, x1=_across(x), x2=_across(x), y1=TOP, y2=FLOOR, class_=name)
    return html(line, el("text", words, x=_across(x), y=FLOOR + 17, text_anchor="middle") if words else None)


def _knot(at: float, value: float, x: float, y: float) -> Html:
    said = el("title", f"at {at:.2f}: {number(value)}")
    return el("circle", said, cx=_across(x), cy=_n(TOP + y * (FLOOR - TOP)), r=4, class_="knot")


def _size_line(value: float, y: float) -> Html:
    line = el("line", x1=f"{START}%", x2="99%", y1=_n(y), y2=_n(y), class_="grid" if value else "zero")
    return html(line, el("text", f"{abs(value):.6g}", x=f"{START - 1.2}%", y=_n(y + 4), text_anchor="end"))


def _wide_size(rank: int, effect: Effect, at: float, width: float, zero: float, unit: float) -> Html:
    end = zero - effect.largest * unit - 4 if _up(effect) else zero + effect.largest * unit + 13
    words = el("text", f"{rank}", x=f"{at + width / 2:.2f}%", y=_n(end), text_anchor="middle")
    return html(_size(rank, effect, at, width, zero, unit), words)


def _size(rank: int, effect: Effect, at: float, width: float, zero: float, unit: float) -> Html:
    height = effect.largest * unit
    said = el("title", f"{rank}. {effect.term.name}: {number(effect.low)} to {number(effect.high)}")
    place = {"x": f"{at:.3f}%", "y": _n(zero - height if _up(effect) else zero)}
    size = {"width": f"{width:.3f}%", "height": _n(height)}
    return el("rect", said, **place, **size, class_=f"kind-{effect.term.kind}")


def _across(share: float) -> str:
    return f"{LEFT + share * WIDTH:.3f}%"


def _n(value: float) -> str:
    return f"{value:.1f}"
