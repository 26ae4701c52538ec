from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.report.accuracy import Bin
from groundwire.report.charts import bar, curve, histogram, legend, meter, stack, whole_ticks

COUNTS = st.lists(st.integers(0, 10**7), min_size=5, max_size=5)


def shapes(svg: str, tag: str, name: str) -> list[dict[str, str]]:
    """Attributes of the elements `tag` of class `name`; the chart must be well formed."""
    return [e.attrib for e in ElementTree.fromstring(svg).iter(tag) if e.get("class") == name]


def percents(shape: dict[str, str], key: str) -> float:
    return float(shape[key].removesuffix("%"))


@given(COUNTS, COUNTS, COUNTS, st.none() | st.floats(0, 1))
def test_bars_are_as_high_as_their_counts_and_stay_inside(unfaithful, faithful, plain, threshold):
    svg = histogram({1: unfaithful, 0: faithful, None: plain}, threshold)
    total = 0.0
    highest = whole_ticks(max(map(sum, zip(unfaithful, faithful, plain, strict=True))))[-1]
    for name, counts in (("unfaithful", unfaithful), ("faithful", faithful), ("plain", plain)):
        rects = shapes(svg, "rect", name)
        assert len(rects) == sum(c > 0 for c in counts)
        for rect, number in zip(rects, [c for c in counts if c], strict=True):
            assert float(rect["height"]) == pytest.approx(190 * number / highest, abs=0.06)
            assert float(rect["y"]) >= 25.9
            assert 0 <= percents(rect, "x") < percents(rect, "x") + percents(rect, "width") <= 98.01
        total += sum(counts)
    assert f"{int(total):,} checked answer" in svg


def test_the_threshold_stands_where_it_is():
    low, high = (shapes(histogram({1: [1], 0: [0], None: [0]}, t), "line", "threshold") for t in (0.0, 1.0))
    assert [low[0]["x1"], high[0]["x1"]] == ["9.000%", "98.000%"]
    assert shapes(histogram({1: [1], 0: [0], None: [0]}, None), "line", "threshold") == []


def test_the_legend_names_only_what_is_drawn():
    words = re.sub("<[^>]*>", "|", legend({1: [2, 1], 0: [0, 0], None: [4, 0]}))
    assert "labelled unfaithful (3)" in words
    assert "no label (4)" in words
    assert "labelled faithful" not in words


def test_the_curve_puts_every_bin_between_its_ends():
    svg = curve([Bin(10, 0.1, 0), Bin(10, 0.5, 6)])
    first, second = shapes(svg, "circle", "point")
    assert (float(first["cx"]), float(first["cy"])) == (46 + 30, 312)
    assert (float(second["cx"]), float(second["cy"])) == (46 + 150, 312 - 180)
    upright = [w for w in shapes(svg, "line", "whisker") if w["x1"] == w["x2"]]
    for whisker, point in zip(upright, (first, second), strict=True):
        assert float(whisker["y1"]) >= float(point["cy"]) >= float(whisker["y2"])
    assert len(shapes(svg, "line", "diagonal")) == 1


@given(st.floats(-5, 5), st.floats(0, 5))
def test_a_bar_grows_from_the_middle_towards_its_side(value, largest):
    name = "unfaithful" if value > 0 else "faithful"
    (rect,) = shapes(bar(value, largest), "rect", name)
    start, width = percents(rect, "x"), percents(rect, "width")
    assert (start if value > 0 else start + width) == pytest.approx(50, abs=0.011)
    assert 0 <= width <= 50
    if abs(value) <= largest and largest > 0.01:
        assert width == pytest.approx(50 * abs(value) / largest, abs=0.006)


def test_a_meter_is_hot_above_the_threshold_only():
    assert shapes(meter(0.6, 0.5), "rect", "unfaithful")[0]["width"] == "60.00%"
    assert shapes(meter(0.5, 0.5), "rect", "plain")
    assert shapes(meter(0.6, None), "line", "threshold") == []


def test_a_stack_shares_by_size_not_by_sign():
    svg = stack({"latent": 1.0, "residual": -3.0})
    assert shapes(svg, "rect", "kind-latent")[0]["width"] == "25.00%"
    assert percents(shapes(svg, "rect", "kind-residual")[0], "x") == 25
    assert 'width="0.00%"' in stack({"latent": 0.0})


@given(st.integers(0, 10**15))
def test_ticks_are_few_round_and_reach_the_top(highest):
    ticks = whole_ticks(highest)
    assert ticks[0] == 0
    assert max(1, highest) <= ticks[-1]
    assert 2 <= len(ticks) <= 6
    step = ticks[1]
    assert str(step).strip("0") in {"1", "2", "5"}
    assert ticks[-1] - step < max(1, highest)
