from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from groundwire.errors import InputError
from groundwire.training import logistic
from groundwire.training.logistic import ridge_logistic


def problem(seed=0, n=400, d=6):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator)
    chance = torch.sigmoid(x @ torch.linspace(-1, 1, d) - 1)
    return x, torch.bernoulli(chance, generator=generator), generator


def reference(x, y, penalty, weights=None):
    model = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000)
    model.fit(x.double().numpy(), y.numpy(), sample_weight=None if weights is None else weights.numpy())
    return model.coef_[0], float(model.intercept_[0])


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_agrees_with_scikit_learn_at_the_same_penalty(penalty, weighted):
    x, y, generator = problem()
    weights = torch.rand(len(x), generator=generator) * 3 if weighted else None
    beta, intercept = ridge_logistic(x, y, penalty=penalty, weights=weights)
    wanted, wanted_intercept = reference(x, y, penalty, weights)
    np.testing.assert_allclose(beta.numpy(), wanted, atol=2e-3)
    assert intercept == pytest.approx(wanted_intercept, abs=2e-3)


def test_a_given_offset_is_what_the_columns_start_from():
    """Against a general minimiser, in float64, of the loss as documented."""
    x, y, generator = problem()
    offset = torch.randn(len(x), generator=generator) * 2
    beta, intercept = ridge_logistic(x, y, penalty=5.0, offset=offset)

    def loss(b):
        z = offset.double().numpy() + x.double().numpy() @ b[:-1] + b[-1]
        return (np.logaddexp(0, z) - y.numpy() * z).sum() + 2.5 * (b[:-1] ** 2).sum()

    wanted = minimize(loss, np.zeros(x.shape[1] + 1), tol=1e-8).x
    np.testing.assert_allclose([*beta.tolist(), intercept], wanted, atol=3e-3)


def test_an_offset_that_says_all_leaves_nothing_to_learn():
    x, y, _ = problem(n=4000)
    beta, intercept = ridge_logistic(x, y, penalty=10.0)
    left, rest = ridge_logistic(x, y, penalty=10.0, offset=x @ beta + intercept)
    assert float(left.abs().max()) < 0.05 * float(beta.abs().max())
    assert abs(rest) < 0.02


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_separable_data_neither_overflow_nor_fail(scale):
    x = torch.cat([torch.linspace(-2, -1, 50), torch.linspace(1, 2, 50)])[:, None] * scale
    y = (x[:, 0] > 0).float()
    beta, intercept = ridge_logistic(x, y, penalty=1e-3)
    assert bool(beta.isfinite().all())
    assert np.isfinite(intercept)
    assert bool(((x @ beta + intercept > 0) == (y > 0)).all())


def test_a_column_that_is_rare_and_separates_does_not_throw_the_others_off():
    x, y, _ = problem(n=2000)
    rare = torch.zeros(len(x), 1)
    rare[y.nonzero()[:3, 0]] = 40.0
    x = torch.cat([x, rare], 1)
    beta, _ = ridge_logistic(x, y, penalty=1.0, steps=30)
    wanted = reference(x, y, 1.0)[0]
    np.testing.assert_allclose(beta[:-1].numpy(), wanted[:-1], atol=2e-3)
    assert float(beta[-1]) == pytest.approx(wanted[-1], rel=0.2)  # the loss is all but flat there


@given(st.integers(0, 1000), st.sampled_from([7, 64, 399]))
def test_the_sum_does_not_depend_on_how_rows_are_cut(seed, chunk):
    x, y, _ = problem(seed)
    before = logistic._CHUNK, logistic._TOLERANCE
    logistic._TOLERANCE = 0.0  # both take all steps: rounding may end one of them a step sooner
    try:
        whole, intercept = ridge_logistic(x, y, penalty=3.0)
        logistic._CHUNK = chunk
        cut, other = ridge_logistic(x, y, penalty=3.0)
    finally:
        logistic._CHUNK, logistic._TOLERANCE = before
    np.testing.assert_allclose(cut.numpy(), whole.numpy(), atol=1e-4)
    assert other == pytest.approx(intercept, abs=1e-4)


def test_the_mean_probability_is_the_share_of_ones():
    """The intercept is not penalised, however strong the penalty on the rest."""
    x, y, _ = problem()
    beta, intercept = ridge_logistic(x, y, penalty=1e6)
    assert expit((x @ beta).numpy() + intercept).mean() == pytest.approx(float(y.mean()), abs=1e-3)
    assert float(beta.abs().max()) < 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_label_only_is_refused(value):
    with pytest.raises(InputError, match="both 0 and 1"):
        ridge_logistic(torch.zeros(3, 2), torch.full((3,), value), penalty=1.0)
