"""Ridge logistic regression by Newton's method: many rows, some hundred columns, weights and a given offset."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.errors import InputError

_TOLERANCE = 1e-5  # of the relative loss, between two steps
_CHUNK = 16_384  # rows whose products are summed at once


def ridge_logistic(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    *,
    penalty: float,
    weights: Float[Tensor, " n"] | None = None,
    offset: Float[Tensor, " n"] | None = None,
    steps: int = 8,
) -> tuple[Float[Tensor, " d"], float]:
    """Coefficients and intercept that minimise `sum(w * log-loss(offset + x @ b + b0)) + penalty / 2 * |b|^2`.

    x: float32, best standardised: one penalty holds for all columns. y: 0 or 1. weights: of rows; None = 1.
    Raises InputError where y holds one label only.
    """
    weights = torch.ones(len(x)) if weights is None else weights
    offset = torch.zeros(len(x)) if offset is None else offset
    share = float((weights * y).sum() / weights.sum())
    if not 0 < share < 1:
        raise InputError(f"targets of which a share {share} is 1", expected="both 0 and 1", remedy="add labelled rows")
    width = x.shape[1]
    beta = torch.zeros(width + 1)
    beta[-1] = 0.0 if bool(offset.any()) else torch.logit(torch.tensor(share))
    ridge = torch.full((width + 1,), float(penalty))
    ridge[-1] = 1e-6
    loss = _loss(x, y, weights, offset, beta, ridge)
    for _ in range(steps):
        gradient, hessian = ridge * beta, torch.diag(ridge).double()
        for rows in torch.arange(len(x)).split(_CHUNK):
            part = torch.cat([x[rows], torch.ones(len(rows), 1)], 1)
            p = torch.sigmoid(offset[rows] + part @ beta)
            gradient = gradient + part.T @ (weights[rows] * (p - y[rows]))
            curvature = (weights[rows] * p * (1 - p)).clamp_min(1e-9)
            hessian += ((part * curvature[:, None]).T @ part).double()
        step = torch.linalg.solve(hessian, gradient.double()).float()
        size, lower = 1.0, loss
        while size > 1e-2:  # Newton's step overshoots where rare columns nearly separate the labels
            lower = _loss(x, y, weights, offset, beta - size * step, ridge)
            if lower <= loss:
                break
            size /= 2
        if lower > loss:
            break
        beta, gain, loss = beta - size * step, loss - lower, lower
        if gain <= _TOLERANCE * abs(loss):
            break
    return beta[:-1], float(beta[-1])


def _loss(x: Tensor, y: Tensor, weights: Tensor, offset: Tensor, beta: Tensor, ridge: Tensor) -> float:
    z = offset + x @ beta[:-1] + beta[-1]
    data = (weights * (torch.nn.functional.softplus(z) - y * z)).double().sum()
    return float(data + 0.5 * (ridge * beta * beta).double().sum())
