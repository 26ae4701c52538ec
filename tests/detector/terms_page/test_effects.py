from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwire.additive import Shapes
from groundwire.binding import BINDING_TERMS
from groundwire.grounding import GROUNDING_TERMS, Grounding
from groundwire.scoring import Pooling
from groundwire.terms_page.effects import SHARES, effects, token_weight

FINITE = st.floats(-50, 50).map(lambda x: round(x, 3))


@st.composite
def tables(draw):
    """Whether they are steps (an EBM's) or lines, knots and values."""
    knots = [sorted(draw(st.sets(FINITE, min_size=1, max_size=5))) for _ in range(draw(st.integers(1, 4)))]
    steps = draw(st.booleans())
    values = [draw(st.lists(FINITE, min_size=len(k) + steps, max_size=len(k) + steps)) for k in knots]
    return steps, knots, values


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), weights=st.tuples(st.floats(0, 2), st.floats(0, 2)), at=st.floats(0, 1))
def test_points_are_the_shape_and_straight_lines_between_them_too(with_shapes, table, weights, at):
    steps, knots, values = table
    make = Shapes.steps if steps else Shapes.piecewise_linear
    shapes = make([np.array(k) for k in knots], [np.array(v) for v in values])
    artifact = with_shapes(shapes, pooling=Pooling("window", window_weight=weights[0], mean_weight=weights[1]))
    for effect in effects(artifact):
        of_term = effect.term.feature_id

        def shape(x: float, of_term: int = of_term) -> float:
            return float(shapes(torch.full((1, shapes.terms), x, dtype=torch.float64))[0, of_term]) * sum(weights)

        assert [y for _, y in effect.points] == pytest.approx([shape(x) for x, _ in effect.points])
        for (a, before), (b, after) in pairwise(effect.points):
            assert a < b
            if b - a > 1e-6:
                x = a + at * (b - a) * 0.999  # a jump is at the right end
                assert before + (x - a) / (b - a) * (after - before) == pytest.approx(shape(x), abs=1e-6)
        for x in (-1e4, 1e4, *effect.knots):
            assert effect.low - 1e-9 <= shape(x) <= effect.high + 1e-9


def test_the_largest_effect_comes_first_whatever_its_sign(artifact):
    found = effects(artifact)
    assert [e.term.name.split(" <")[0] for e in found] == [
        "numbers the prompt does not have",
        "lowers",
        "a direction",
        "raises",
        "both ways",
        "nothing",
        "share of the content words that the prompt does not have",
    ]
    assert [e.largest for e in found] == pytest.approx([2.0, 0.9, 0.6, 0.4, 0.3, 0.2, 0.1])
    lowers = found[1]
    assert (lowers.low, lowers.high) == pytest.approx((-0.9, 0.5))


def test_a_lowering_latent_is_said_to_lower(artifact):
    directions = {effect.term.name.split()[0]: effect.direction for effect in effects(artifact)}
    assert directions == {
        "raises": "raises",
        "lowers": "lowers",
        "both": "mixed",
        "nothing": "flat",
        "a": "raises",
        "numbers": "raises",
        "share": "lowers",
    }


@pytest.mark.parametrize(
    ("values", "direction", "steady"),
    [
        ([0.0, 1.0, 0.9, 2.0], "raises", False),
        ([0.0, -1.0, -0.9, -2.0], "lowers", False),
        ([0.0, 1.0, 1.0, 2.0], "raises", True),
        ([0.0, 2.0, 1.0, 0.9], "mixed", False),
        ([1.0, 1.0, 1.0, 1.0], "flat", True),
    ],
)
def test_a_wiggling_shape_has_the_direction_of_its_ends(with_shapes, values, direction, steady):
    (effect,) = effects(with_shapes(Shapes.steps([np.array([1.0, 2.0, 3.0])], [np.array(values)])))
    assert (effect.direction, effect.steady) == (direction, steady)


def test_knots_and_means_are_the_detector_s(artifact):
    found = {effect.term.name.split()[0]: effect for effect in effects(artifact)}
    assert found["lowers"].knots == (-4.0, 0.0, 4.0)
    assert found["lowers"].mean == pytest.approx(0.1)
    assert found["numbers"].mean is None
    assert {effect.mean for effect in effects(replace(artifact, unlike=None))} == {None}


def test_grounding_terms_are_never_negative(artifact):
    """A jump or slope below 0 would never be seen."""
    for effect in effects(artifact):
        if effect.term.kind == "grounding":
            assert effect.points[0][0] == 0.0


def test_counted_terms_are_logarithms_and_the_others_are_not():
    measured = Grounding("one word").measure("Seven 12 34 grey bridges stand, where Seven 12 34 grey bridges stood.")
    assert measured["words"] == pytest.approx(math.log1p(13))
    assert measured["absent_numbers"] == pytest.approx(math.log1p(4))
    assert 0 < measured["absent_share"] <= 1
    assert set(SHARES) <= {*GROUNDING_TERMS, *BINDING_TERMS}


def test_the_axis_says_what_the_values_are(artifact, with_shapes):
    axes = {effect.term.name.split()[0]: effect.axis for effect in effects(artifact)}
    assert axes["lowers"] == "pre-activation"
    assert axes["a"] == "place along the direction"
    assert axes["numbers"] == "how many, spaced as ln(1 + n)"
    assert axes["share"] == "how much"
    shapes = Shapes.steps([np.array([1.0])], [np.array([0.0, 1.0])])
    (pooled,) = effects(with_shapes(shapes, rectify=True, pooling=Pooling("max")))
    assert pooled.axis == "highest activation in the answer"
    assert pooled.points[0][0] == 0.0


def test_a_token_counts_as_pooling_says(with_shapes):
    shapes = Shapes.steps([np.array([1.0])], [np.array([0.0, 1.0])])
    both = Pooling("window", window_weight=0.5, mean_weight=0.25)
    assert token_weight(with_shapes(shapes, pooling=both)) == 0.75
    assert effects(with_shapes(shapes, pooling=both))[0].largest == 0.75
    assert token_weight(with_shapes(shapes, pooling=replace(both, kind="max"))) == 1.0


def test_a_shape_that_goes_on_is_unbounded(with_shapes):
    cuts, values = torch.tensor([[0.0], [0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    slopes = torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    goes_on, stays = sorted(effects(with_shapes(Shapes(cuts, values, slopes))), key=lambda e: e.term.feature_id or 0)
    assert (goes_on.bounded, stays.bounded) == (False, True)
    below = Shapes(cuts[:1], values[:1], torch.tensor([[0.5, 0.0]]))
    assert not effects(with_shapes(below))[0].bounded
    assert effects(with_shapes(below, rectify=True))[0].bounded  # what is rectified never gets there


def test_a_term_without_cuts_is_flat(with_shapes):
    (effect,) = effects(with_shapes(Shapes.steps([np.array([])], [np.array([0.25])])))
    assert effect.direction == "flat"
    assert effect.knots == ()
    assert {y for _, y in effect.points} == {0.25}
    assert effect.points[0][0] < effect.points[-1][0]
