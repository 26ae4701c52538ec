from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from groundwire.errors import InputError
from groundwire.training.metrics import ReliabilityBin, reliability
from groundwire.training.reliability import reliability_diagram

SVG = "{http://www.w3.org/2000/svg}"


def bins(n=200, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return reliability((rng.random(n) < scores).astype(int), scores)


def texts(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def test_a_point_stands_where_its_bin_says():
    drawn = ET.fromstring(reliability_diagram({"one": {"score": [ReliabilityBin(0.25, 0.5, 40, 0.35, 0.65)]}}))
    disc = drawn.find(f".//{SVG}circle")
    frame = drawn.find(f".//{SVG}rect[@class='frame']")
    left, top, side = (float(frame.get(name)) for name in ("x", "y", "width"))
    assert float(disc.get("cx")) == pytest.approx(left + 0.25 * side, abs=0.1)
    assert float(disc.get("cy")) == pytest.approx(top + 0.5 * side, abs=0.1)
    assert drawn.find(f".//{SVG}g/{SVG}g/{SVG}title").text == "score 0.250, 0.500 unfaithful of 40"


def test_small_multiples_fit_their_sheet():
    panels = {f"set {i}": {"before": bins(seed=i), "after": bins(seed=i + 9)} for i in range(5)}
    drawn = ET.fromstring(reliability_diagram(panels, notes={"set 3": "2,300 rows"}, title="Reliability", columns=2))
    cells = drawn.findall(f"{SVG}g")
    assert len(cells) == 5
    width, height = float(drawn.get("width")), float(drawn.get("height"))
    for cell in cells:
        x, y = map(float, cell.get("transform")[10:-1].split(","))
        frame = cell.find(f"{SVG}rect")
        assert x + float(frame.get("x")) + float(frame.get("width")) < width
        assert y + float(frame.get("y")) + float(frame.get("height")) + 34 < height
    assert {"Reliability", "before", "after", "set 0", "set 4", "2,300 rows"} <= set(texts(drawn))


def test_one_series_needs_no_legend_and_names_are_escaped():
    drawn = ET.fromstring(reliability_diagram({"a < b & c": {"score": bins()}}, title="x > y"))
    assert {"a < b & c", "x > y"} <= set(texts(drawn))
    assert "score" in texts(drawn)  # the axis
    assert texts(drawn).count("score") == 1
    assert drawn.find(f"{SVG}title").text == "x > y"


def test_its_style_stays_inside():
    style = ET.fromstring(reliability_diagram({"one": {"score": bins()}})).find(f"{SVG}style").text
    selectors = [part for rule in style.split("}")[:-1] for part in rule.split("{")[0].split(",")]
    assert selectors
    assert all(selector.startswith(".reliability ") for selector in selectors)


MANY = {str(i): [ReliabilityBin(0.5, 0.5, 1, 0.1, 0.9)] for i in range(5)}


@pytest.mark.parametrize(("panels", "columns"), [({}, 3), ({"a": {}}, 3), ({"a": MANY}, 3), ({"a": {"b": []}}, 0)])
def test_what_cannot_be_drawn_is_refused(panels, columns):
    with pytest.raises(InputError, match="series"):
        reliability_diagram(panels, columns=columns)
