"""Shape functions: against a plain reading of their definition, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError

FINITE = st.floats(-1e6, 1e6, width=32)


@st.composite
def tables(draw):
    """Per term ascending cuts (0 to 8, so that padding differs) and a value per interval."""
    sizes = draw(st.lists(st.integers(0, 8), min_size=1, max_size=5))
    cuts = [np.sort(draw(hnp.arrays(float, n, elements=FINITE, unique=True))) for n in sizes]
    return cuts, [draw(hnp.arrays(float, n + 1, elements=FINITE)) for n in sizes]


@given(tables(), st.data())
def test_steps_are_looked_up_by_the_number_of_cuts_at_or_below(table, data):
    cuts, values = table
    special = [np.r_[c, -np.inf, np.inf][np.isfinite(np.r_[c, -np.inf, np.inf])].tolist() for c in cuts]
    rows = [[data.draw(st.sampled_from([*s, -1e9, 1e9]) | FINITE) for s in special] for _ in range(3)]
    expected = [[v[(x >= c).sum()] for x, c, v in zip(row, cuts, values, strict=True)] for row in rows]
    assert Shapes.steps(cuts, values)(torch.tensor(rows, dtype=torch.float64)).tolist() == expected


@given(
    hnp.arrays(float, 6, elements=st.integers(-50, 50), unique=True),
    hnp.arrays(float, 6, elements=st.floats(-10, 10)),
    hnp.arrays(float, 20, elements=st.floats(-80, 80)),
)
def test_piecewise_linear_interpolates_and_stays_constant_outside(knots, values, x):
    knots = np.sort(knots)
    x = np.concatenate([x, knots])
    got = Shapes.piecewise_linear([knots], [values])(torch.from_numpy(x)[:, None])[:, 0]
    np.testing.assert_allclose(got.numpy(), np.interp(x, knots, values), atol=1e-9)


def test_one_knot_is_a_constant():
    assert Shapes.piecewise_linear([np.array([2.0])], [np.array([0.5])])(torch.tensor([[-9.0], [9.0]])).tolist() == [
        [0.5],
        [0.5],
    ]


@pytest.mark.parametrize("shape", [(2,), (0, 2), (3, 2), (2, 3, 2)])
def test_any_leading_shape_gives_the_same_contributions(shape):
    shapes = Shapes.piecewise_linear([np.array([0.0, 1.0])] * 2, [np.array([0.0, 1.0]), np.array([1.0, -1.0])])
    x = torch.linspace(-1, 2, max(1, int(np.prod(shape))))[: int(np.prod(shape))].reshape(shape)
    got = shapes(x)
    assert got.shape == x.shape
    assert torch.equal(got.reshape(-1, 2), shapes(x.reshape(-1, 2)))
    torch.testing.assert_close(got[..., 0], x[..., 0].double().clamp(0, 1))


def test_a_row_costs_the_same_alone_or_in_a_batch():
    rng = np.random.default_rng(0)
    shapes = Shapes.piecewise_linear([np.sort(rng.normal(size=9))] * 50, list(rng.normal(size=(50, 9))))
    x = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shapes(x), torch.stack([shapes(row) for row in x]))


@given(tables(), st.floats(-4, 4))
def test_scaled_multiplies_contributions(table, factor):
    shapes = Shapes.steps(*table)
    x = torch.linspace(-10, 10, 3 * shapes.terms, dtype=torch.float64).reshape(3, -1)
    torch.testing.assert_close(shapes.scaled(factor)(x), factor * shapes(x))


def test_what_is_not_finite_shows():
    shapes = Shapes.steps([np.array([0.0])], [np.array([1.0, 2.0])])
    assert shapes(torch.tensor([[torch.nan], [torch.inf], [-torch.inf]])).isnan().all()


@pytest.mark.parametrize(
    ("cuts", "values", "slopes"),
    [
        ([[1.0, 0.0]], [[0.0] * 3], [[0.0] * 3]),  # falls
        ([[1.0, 1.0]], [[0.0] * 3], [[0.0] * 3]),  # stands still
        ([[torch.inf, 1.0]], [[0.0] * 3], [[0.0] * 3]),  # padded in front
        ([[torch.nan, 1.0]], [[0.0] * 3], [[0.0] * 3]),
        ([[-torch.inf, 1.0]], [[0.0] * 3], [[0.0] * 3]),
        ([[torch.nan]], [[0.0] * 2], [[0.0] * 2]),
        ([[1.0]], [[0.0, torch.nan]], [[0.0] * 2]),
        ([[1.0]], [[0.0, 0.0]], [[0.0, torch.inf]]),
        ([[1.0]], [[0.0]], [[0.0]]),  # one interval short
        ([[1.0]], [[0.0, 0.0]], [[0.0]]),
    ],
)
def test_broken_arrays_are_refused(cuts, values, slopes):
    with pytest.raises(ArtifactError, match=r"shape functions|Expected: cuts \[terms, K\]"):
        Shapes(torch.tensor(cuts), torch.tensor(values), torch.tensor(slopes))


def test_tables_of_unequal_length_are_refused():
    with pytest.raises(ArtifactError, match="1 terms with cuts, 2 with values"):
        Shapes.steps([np.zeros(1)], [np.zeros(2), np.zeros(2)])
    with pytest.raises(ArtifactError, match="term 0 has 1 cuts and 1 values"):
        Shapes.steps([np.zeros(1)], [np.zeros(1)])
    with pytest.raises(ArtifactError, match="term 0 has 0 cuts"):
        Shapes.piecewise_linear([np.zeros(0)], [np.zeros(0)])
