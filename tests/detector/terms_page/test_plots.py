from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.terms_page.effects import Effect, effects
from groundwire.terms_page.plots import FLOOR, LEFT, MOST_KNOTS, TOP, WIDTH, number, overview, reach, shape_plot, ticks
from groundwire.types import Term

LOWERS = Effect(
    Term("latent", "x", 1),
    (-1.0, 3.0),
    ((-2.0, 0.5), (-1.0, 0.5), (3.0, -1.0), (4.0, -1.0)),
    True,
    "pre-activation",
    mean=1.0,
)


def drawn(svg: str, tag: str, name: str) -> list[ElementTree.Element]:
    """Elements `tag` of class `name`; the chart must be well formed."""
    return [e for e in ElementTree.fromstring(svg).iter(tag) if name in (e.get("class") or "").split()]


def words(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter("text")]


def share(element: ElementTree.Element, key: str) -> float:
    return float((element.get(key) or "").removesuffix("%"))


def heights(svg: str) -> dict[float, float]:
    """Pixels from above of the lines across, by the value written beside them."""
    labels = [e for e in ElementTree.fromstring(svg).iter("text") if e.get("text-anchor") == "end"]
    return {float((e.text or "").replace("−", "-")): float(e.get("y") or "") - 4 for e in labels}


def test_the_line_passes_where_the_shape_says():
    svg = shape_plot(LOWERS, -1.0, 0.5)
    (line,) = drawn(svg, "polyline", "shape")
    points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
    # Six values across; up, the range has 6 % of room at either end.
    assert [x for x, _ in points] == pytest.approx([0, 1000 / 6, 5000 / 6, 1000], abs=0.1)
    high, low = 0.5 + 0.09, -1.0 - 0.09
    assert [y for _, y in points] == pytest.approx(
        [(high - v) / (high - low) * 1000 for v in (0.5, 0.5, -1, -1)], abs=0.1
    )


def test_knots_zero_line_and_ticks_share_the_line_s_scale():
    svg = shape_plot(LOWERS, -1.0, 0.5)
    first, second = drawn(svg, "circle", "knot")
    assert share(first, "cx") == pytest.approx(LEFT + WIDTH / 6, abs=0.01)
    at = heights(svg)
    assert at[0.5] == pytest.approx(float(first.attrib["cy"]), abs=0.11)
    assert at[-1.0] == pytest.approx(float(second.attrib["cy"]), abs=0.11)
    (zero,) = drawn(svg, "line", "zero")
    assert float(zero.attrib["y1"]) == pytest.approx(at[0.0], abs=0.11)
    (mean,) = drawn(svg, "line", "mean")
    assert share(mean, "x1") == pytest.approx(LEFT + WIDTH / 2, abs=0.01)
    assert {"log-odds added", "pre-activation"} <= set(words(svg))


def test_a_mean_that_is_unknown_or_far_outside_is_not_drawn():
    for mean in (None, 4.5):
        assert not drawn(shape_plot(replace(LOWERS, mean=mean), -1.0, 1.0), "line", "mean")


def test_counts_are_written_as_counts():
    numbers = Effect(Term("grounding", "numbers"), (0.0, 2.0), ((0.0, 0.0), (2.0, 1.0)), True, "how many", counted=True)
    assert [w for w in words(shape_plot(numbers, 0.0, 1.0)) if w.isdigit()][-4:] == ["0", "1", "2", "5"]


def test_an_ebm_s_many_knots_are_not_marked():
    many = tuple(float(i) for i in range(MOST_KNOTS + 1))
    effect = replace(LOWERS, knots=many, points=tuple((x, x) for x in many))
    assert not drawn(shape_plot(effect, 0.0, 100.0), "circle", "knot")
    assert len(drawn(shape_plot(replace(effect, knots=many[1:]), 0.0, 100.0), "circle", "knot")) == MOST_KNOTS


@given(st.floats(-5, 0), st.floats(0, 5))
def test_everything_stays_inside_the_plot(low, high):
    effect = replace(LOWERS, points=((0.0, low), (1.0, high)), knots=(0.0, 1.0), mean=None)
    svg = shape_plot(effect, low, high)
    for circle in drawn(svg, "circle", "knot"):
        assert TOP <= float(circle.attrib["cy"]) <= FLOOR
        assert LEFT <= share(circle, "cx") <= LEFT + WIDTH


def test_the_overview_has_a_column_for_every_term_as_long_as_its_effect(artifact):
    found = effects(artifact)
    svg = overview(found)
    columns = {e[0].text.split(". ")[0]: e for e in ElementTree.fromstring(svg).iter("rect")}
    assert len(columns) == len(found)
    lengths = [float(columns[f"{rank}"].attrib["height"]) for rank in range(1, len(found) + 1)]
    assert lengths == pytest.approx([110 * e.largest / found[0].largest for e in found], abs=0.06)
    zero = float(drawn(svg, "line", "zero")[0].attrib["y1"])
    for rank, effect in enumerate(found, 1):
        column = columns[f"{rank}"]
        top, length = float(column.attrib["y"]), float(column.attrib["height"])
        assert (zero if effect.direction == "lowers" else zero - length) == pytest.approx(top, abs=0.11)
        assert 11 <= share(column, "x") <= share(column, "x") + share(column, "width") <= 99.01
    # What is no latent is found by its rank.
    ranks = [e.text for e in ElementTree.fromstring(svg).iter("text") if e.get("text-anchor") == "middle"]
    assert sorted(ranks) == ["1", "3", "7"]


def test_columns_never_overlap(artifact):
    one = effects(artifact)
    svg = overview(one * 40)
    for name in ("kind-latent", "kind-grounding"):
        ends: dict[float, float] = {}
        for column in drawn(svg, "rect", name):
            side = float(column.attrib["y"]) < float(drawn(svg, "line", "zero")[0].attrib["y1"]) - 0.05
            assert share(column, "x") >= ends.get(side, 0.0) - 0.01
            ends[side] = share(column, "x") + share(column, "width")


def test_a_detector_that_does_nothing_still_has_a_page():
    flat = replace(LOWERS, points=((0.0, 0.0), (1.0, 0.0)))
    assert drawn(overview([flat]), "rect", "kind-latent")[0].attrib["height"] == "0.0"
    assert drawn(shape_plot(flat, 0.0, 0.0), "line", "zero")


def test_reach_is_around_the_middle():
    rect = next(ElementTree.fromstring(reach(LOWERS, 2.0)).iter("rect"))
    assert (rect.attrib["x"], rect.attrib["width"]) == ("25.0%", "37.5%")


@given(st.floats(-1000, 1000), st.floats(1e-6, 1000), st.integers(4, 9))
def test_ticks_are_few_even_and_inside(low, size, most):
    found = ticks(low, low + size, most)
    assert 1 <= len(found) <= most
    tiny = size * 1e-6
    assert all(low - tiny <= tick <= low + size + tiny for tick in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert gaps == pytest.approx(gaps[:1] * len(gaps))


def test_numbers_carry_their_sign_and_nothing_has_none():
    assert [number(v) for v in (0.5, -0.5, 0.0, -0.0001)] == ["+0.500", "−0.500", "0.000", "0.000"]


def test_no_text_escapes_its_column():
    hostile = replace(LOWERS, term=Term("latent", "</title><script>", 1))
    assert not re.search("<script", overview([hostile]))
