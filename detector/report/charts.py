"""Charts as inline SVG. Across, everything is placed in per cent, so that a narrow page never shrinks the letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from groundwire.report.accuracy import Bin
from groundwire.report.markup import Html, count, el, html

LABELS = {1: ("unfaithful", "labelled unfaithful"), 0: ("faithful", "labelled faithful"), None: ("plain", "no label")}
LEFT, WIDTH = 9.0, 89.0  # the plot, in per cent of the chart's width
TOP, FLOOR = 26, 216  # the plot, in pixels from above
SIDE = 300  # a side of the square plot, in pixels


def histogram(counts: Mapping[int | None, Sequence[int]], threshold: float | None) -> Html:
    """Answers per bin of the score, stacked by label (1, 0, None), with the threshold drawn."""
    bins = len(counts[None])
    totals = [sum(counts[label][i] for label in LABELS) for i in range(bins)]
    ticks = whole_ticks(max(totals))
    highest = ticks[-1]
    parts = [_flagged_side(threshold)] if threshold is not None else []
    for value in ticks:
        y = FLOOR - value / highest * (FLOOR - TOP)
        parts.append(el("line", x1=_x(0), x2=_x(1), y1=_n(y), y2=_n(y), class_="grid" if value else "axis"))
        parts.append(el("text", f"{value:,}", x=f"{LEFT - 1.2:g}%", y=_n(y + 4), text_anchor="end"))
    for i in range(bins):
        parts.append(_column(i, bins, {label: counts[label][i] for label in LABELS}, (FLOOR - TOP) / highest))
    for tick in range(6):
        parts.append(el("text", f"{tick / 5:.1f}", x=_x(tick / 5), y=FLOOR + 18, text_anchor="middle"))
    parts.append(el("text", "score", x=_x(0.5), y=FLOOR + 38, text_anchor="middle", class_="name"))
    parts.append(el("text", "answers", x="0", y=12, class_="name"))
    if threshold is not None:
        parts.append(_threshold(threshold))
    said = f"Histogram of the scores of {count(sum(totals), 'checked answer')}"
    return el("svg", *parts, width="100%", height=FLOOR + 44, role="img", aria_label=said, class_="chart")


def legend(counts: Mapping[int | None, Sequence[int]]) -> Html:
    """What the colours of `histogram` mean, with the number of answers of each."""
    items = [
        el("li", el("i", class_=f"key {name}"), f"{words} ({sum(counts[label]):,})")
        for label, (name, words) in LABELS.items()
        if sum(counts[label])
    ]
    return el("ul", *items, class_="legend")


def curve(bins: Sequence[Bin]) -> Html:
    """Mean score across, share of unfaithful answers up, an interval at each point, and the diagonal of honesty."""
    left, top = 46, 12
    parts = []
    for i in range(6):
        at, value = SIDE * i / 5, f"{i / 5:.1f}"
        y = top + SIDE - at
        parts.append(el("line", x1=left, x2=left + SIDE, y1=_n(y), y2=_n(y), class_="grid" if i else "axis"))
        parts.append(el("text", value, x=left - 8, y=_n(y + 4), text_anchor="end"))
        parts.append(el("text", value, x=_n(left + at), y=top + SIDE + 18, text_anchor="middle"))
    parts.append(el("line", x1=left, y1=top + SIDE, x2=left + SIDE, y2=top, class_="diagonal"))
    points = [(left + b.mean * SIDE, b) for b in bins]
    line = " ".join(f"{_n(x)},{_n(top + SIDE * (1 - b.unfaithful / b.rows))}" for x, b in points)
    parts += [_whisker(x, b, top) for x, b in points]
    parts.append(el("polyline", points=line, class_="curve"))
    parts += [_point(x, b, top) for x, b in points]
    parts.append(el("text", "mean score", x=left + SIDE / 2, y=top + SIDE + 38, text_anchor="middle", class_="name"))
    turned = f"translate(12 {top + SIDE / 2:g}) rotate(-90)"
    parts.append(el("text", "share labelled unfaithful", transform=turned, text_anchor="middle", class_="name"))
    said = "Reliability curve: share of answers labelled unfaithful against the mean score, per bin"
    box = f"0 0 {left + SIDE + 14} {top + SIDE + 46}"
    return el("svg", *parts, viewBox=box, width=left + SIDE + 14, role="img", aria_label=said, class_="chart square")


def bar(value: float, largest: float) -> Html:
    """A bar to the right (towards unfaithful) or left (towards faithful) of the middle; `largest` fills a side."""
    width = 50 * min(1.0, abs(value) / largest) if largest else 0.0
    start, name = (50.0, "unfaithful") if value > 0 else (50 - width, "faithful")
    rect = el("rect", x=f"{start:.2f}%", y=2, width=f"{width:.2f}%", height=10, class_=name)
    middle = el("line", x1="50%", x2="50%", y1=0, y2=14, class_="axis")
    return el("svg", rect, middle, width="100%", height=14, aria_hidden="true", class_="bar")


def meter(score: float, threshold: float | None) -> Html:
    """A score between 0 and 1 as a bar, with a mark at the threshold."""
    name = "unfaithful" if threshold is not None and score > threshold else "plain"
    parts = [
        el("rect", x=0, y=3, width="100%", height=8, rx=4, class_="track"),
        el("rect", x=0, y=3, width=f"{score:.2%}", height=8, rx=4, class_=name),
    ]
    if threshold is not None:
        parts.append(el("line", x1=f"{threshold:.2%}", x2=f"{threshold:.2%}", y1=0, y2=14, class_="threshold"))
    return el("svg", *parts, width="100%", height=14, aria_hidden="true")


def stack(parts: Mapping[str, float]) -> Html:
    """Sizes (absolute values) side by side as shares of a whole, in the colours `kind-NAME`."""
    whole = sum(abs(value) for value in parts.values())
    rects, done = [], 0.0
    for name, value in parts.items():
        width = abs(value) / whole * 100 if whole else 0.0
        rects.append(el("rect", x=f"{done:.2f}%", y=0, width=f"{width:.2f}%", height=10, class_=f"kind-{name}"))
        done += width
    return el("svg", *rects, width="100%", height=10, aria_hidden="true", class_="stack")


def whole_ticks(highest: int) -> list[int]:
    """0 and up to five round numbers, the last at least `highest` and above 0."""
    step = 1
    for power in range(19):
        for step in (10**power, 2 * 10**power, 5 * 10**power):
            if step * 5 >= highest:
                return list(range(0, max(1, -(-highest // step)) * step + 1, step))
    return [0, highest]


def _column(i: int, bins: int, counts: Mapping[int | None, int], height: float) -> Html:
    low, high = i / bins, (i + 1) / bins
    rects, y = [], float(FLOOR)
    for label, number in counts.items():
        if number:
            y -= number * height
            name, words = LABELS[label]
            said = el("title", f"score {low:.2f} to {high:.2f}: {number:,} {words}")
            wide = f"{WIDTH / bins * 0.86:.3f}%"
            x = _x(low + 0.07 / bins)
            rects.append(el("rect", said, x=x, y=_n(y), width=wide, height=_n(number * height), class_=name))
    return html(*rects)


def _flagged_side(threshold: float) -> Html:
    width = f"{(1 - threshold) * WIDTH:.3f}%"
    return el("rect", x=_x(threshold), y=TOP, width=width, height=FLOOR - TOP, class_="flagged")


def _threshold(threshold: float) -> Html:
    at = _x(threshold)
    line = el("line", x1=at, x2=at, y1=TOP - 8, y2=FLOOR, class_="threshold")
    right = threshold <= 0.6
    words = f"flagged above {threshold:.2f} →" if right else f"flagged above {threshold:.2f}"
    shift = 6 if right else -6
    text = el("text", words, x=at, dx=shift, y=TOP, text_anchor="start" if right else "end", class_="name")
    return html(line, text)


def _whisker(x: float, b: Bin, top: int) -> Html:
    low, high = (top + SIDE * (1 - share) for share in b.interval)
    ends = [el("line", x1=_n(x - 4), x2=_n(x + 4), y1=_n(y), y2=_n(y), class_="whisker") for y in (low, high)]
    return html(el("line", x1=_n(x), x2=_n(x), y1=_n(low), y2=_n(high), class_="whisker"), *ends)


def _point(x: float, b: Bin, top: int) -> Html:
    said = el("title", f"{count(b.rows, 'answer')}, mean score {b.mean:.2f}: {b.unfaithful} labelled unfaithful")
    return el("circle", said, cx=_n(x), cy=_n(top + SIDE * (1 - b.unfaithful / b.rows)), r=5, class_="point")


def _x(share: float | int) -> str:
    return f"{LEFT + share * WIDTH:.3f}%"


def _n(value: float | int) -> str:
    return f"{value:.1f}"
