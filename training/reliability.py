"""A reliability diagram as SVG: share of unfaithful answers against the score, one panel per data set.

Pure Python, a string out. A calibrated score lies on the diagonal; above it, answers are worse than the score says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from groundwire.errors import InputError
from groundwire.training.metrics import ReliabilityBin

# Okabe and Ito's colours, told apart by the colour-blind; and shapes, told apart in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_SIDE = 220  # of a panel's square, in pixels
_CELL = (_SIDE + 76, _SIDE + 92)  # of a panel with its labels
_LEFT, _TOP = 52, 44  # of the square in its cell
_LEGEND, _TITLE = 26, 30
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Every rule names the diagram: inside an HTML page a style sheet reaches the whole page.
_STYLE = "".join(
    f".reliability {rule}"
    for rule in (
        "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:11px;fill:#222}",
        ".title{font-size:15px;font-weight:600}",
        ".name{font-size:13px;font-weight:600}",
        ".note,.reliability .tick{fill:#666}",
        ".grid{stroke:#e6e6e6}",
        ".frame{stroke:#999;fill:none}",
        ".ideal{stroke:#777;stroke-dasharray:4 4}",
    )
)


def reliability_diagram(
    panels: Mapping[str, Mapping[str, Sequence[ReliabilityBin]]],
    *,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    columns: int = 3,
) -> str:
    """An SVG document with one panel per data set.

    panels: by data set, one to four series by name ("before", "after"), each as `metrics.reliability` gives it. A point
        stands at a bin's mean score and share unfaithful, with its 95 % interval; its area follows the bin's rows.
    notes: a short line under a panel's name, such as its debiased ECE. The legend is left out for a single series name.
    Raises InputError where there is nothing to draw, or more series than can be told apart.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    if not names or columns < 1 or len(names) > len(_COLOURS):
        raise InputError(
            f"{len(panels)} panels with {len(names)} series, in {columns} columns",
            expected=f"a panel with 1 to {len(_COLOURS)} series, and at least one column",
        )
    across = min(columns, len(panels))
    top = (_TITLE if title else 0) + (_LEGEND if len(names) > 1 else 0) + 8
    width, height = across * _CELL[0] + 8, top + math.ceil(len(panels) / across) * _CELL[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'class="reliability" role="img"><title>{escape(title or "Reliability diagram")}</title>',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    if title:
        parts.append(f'<text class="title" x="16" y="24">{escape(title)}</text>')
    if len(names) > 1:
        parts.append(_legend(names, top - 14.0))
    for i, (name, series) in enumerate(panels.items()):
        row, column = divmod(i, across)
        inside = _panel(name, (notes or {}).get(name, ""), {names.index(key): bins for key, bins in series.items()})
        parts.append(f'<g transform="translate({column * _CELL[0]},{top + row * _CELL[1]})">{inside}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _panel(name: str, note: str, series: Mapping[int, Sequence[ReliabilityBin]]) -> str:
    bottom = _TOP + _SIDE
    parts = [
        f'<text class="name" x="{_LEFT}" y="16">{escape(name)}</text>',
        f'<text class="note" x="{_LEFT}" y="32">{escape(note)}</text>',
    ]
    for tick in _TICKS:
        x, y = _x(tick), _y(tick)
        parts += [
            f'<path class="grid" d="M{x} {_TOP}V{bottom}M{_LEFT} {y}H{_LEFT + _SIDE}"/>',
            f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>',
            f'<text class="tick" x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{tick:g}</text>',
        ]
    middle = _TOP + _SIDE / 2
    parts += [
        f'<path class="ideal" d="M{_LEFT} {bottom}L{_LEFT + _SIDE} {_TOP}"/>',
        f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}"/>',
        f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 34}" text-anchor="middle">score</text>',
        f'<text transform="translate(14,{middle}) rotate(-90)" text-anchor="middle">share unfaithful</text>',
    ]
    largest = max((own.count for bins in series.values() for own in bins), default=1)
    parts += [_series(bins, index, largest) for index, bins in series.items()]
    return "".join(parts)


def _series(bins: Sequence[ReliabilityBin], index: int, largest: int) -> str:
    colour = _COLOURS[index]
    line = " ".join(f"{_x(own.mean_score)},{_y(own.unfaithful)}" for own in bins)
    parts = [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.2" stroke-opacity=".55"/>']
    for own in bins:
        x, y = _x(own.mean_score), _y(own.unfaithful)
        seen = f"score {own.mean_score:.3f}, {own.unfaithful:.3f} unfaithful of {own.count}"
        parts.append(
            f'<g><title>{seen}</title><path d="M{x} {_y(own.low)}V{_y(own.high)}" stroke="{colour}" '
            f'stroke-width="1.4" stroke-opacity=".55"/>'
            f"{_mark(index, x, y, 1.5 + 3 * math.sqrt(own.count / largest))}</g>"
        )
    return "".join(parts)


def _legend(names: Sequence[str], y: float) -> str:
    parts, x = [], 20.0
    for index, name in enumerate(names):
        parts.append(f'{_mark(index, x, y - 4, 4.5)}<text x="{x + 10}" y="{y}">{escape(name)}</text>')
        x += 34 + 6.5 * len(name)
    return "".join(parts)


def _mark(index: int, x: float, y: float, r: float) -> str:
    """Disc, square, diamond or triangle, of about the same area."""
    fill = f'fill="{_COLOURS[index]}"'
    if index == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" {fill}/>'
    a = r * (0.89, 1.25, 1.35)[index - 1]
    paths = {
        1: f"M{x - a:.1f} {y - a:.1f}h{2 * a:.1f}v{2 * a:.1f}h{-2 * a:.1f}z",
        2: f"M{x:.1f} {y - a:.1f}l{a:.1f} {a:.1f}l{-a:.1f} {a:.1f}l{-a:.1f} {-a:.1f}z",
        3: f"M{x:.1f} {y - a:.1f}l{a:.1f} {1.7 * a:.1f}h{-2 * a:.1f}z",
    }
    return f'<path d="{paths[index]}" {fill}/>'


def _x(value: float) -> float:
    return round(_LEFT + _SIDE * value, 1)


def _y(value: float) -> float:
    return round(_TOP + _SIDE * (1 - value), 1)
