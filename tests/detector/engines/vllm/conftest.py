"""A scorer of a few latents, and rows for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundwire.additive import Shapes
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer

WIDTH, TERMS = 6, 5


def scorer_of(pooling: Pooling) -> Scorer:
    rng = np.random.default_rng(0)
    knots = np.sort(rng.normal(size=(TERMS, 4)), axis=1)
    shapes = Shapes.piecewise_linear(list(knots), list(rng.normal(size=knots.shape)))
    weight = torch.tensor(rng.integers(-8, 9, size=(TERMS, WIDTH)) / 8, dtype=torch.float32)
    return Scorer(SparseEncoder(weight, torch.zeros(TERMS)), shapes, -0.5, pooling, 0.1, 2.0, 1)


@pytest.fixture(params=[Pooling("window", 8, 1.0, 0.2), Pooling("max")], ids=["window", "max"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return scorer_of(request.param)
