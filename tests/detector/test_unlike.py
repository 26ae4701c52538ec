"""Distance to the training data: Mahalanobis', its place among the training's own, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundwire.errors import ArtifactError
from groundwire.unlike import Unlike


def fitted(rows: np.ndarray, k: int, flag_above: float = 0.99) -> Unlike:
    """As a training would: principal axes over their standard deviations, quantiles of the rows' own distances."""
    mean = rows.mean(0)
    _, sizes, axes = np.linalg.svd(rows - mean, full_matrices=False)
    projection = axes[:k] / (sizes[:k, None] / len(rows) ** 0.5)
    distances = np.linalg.norm((rows - mean) @ projection.T, axis=1) / k**0.5
    quantiles = np.quantile(distances, np.linspace(0, 1, 101))
    return Unlike(*(torch.from_numpy(a) for a in (mean, projection, quantiles)), flag_above)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_in_the_whole_space_it_is_the_mahalanobis_distance(seed, terms):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(60, terms)) @ rng.normal(size=(terms, terms)) + rng.normal(size=terms)
    found, x = fitted(rows, terms), rng.normal(size=terms)
    centred = x - rows.mean(0)
    expected = (centred @ np.linalg.pinv(np.cov(rows.T, ddof=0).reshape(terms, terms)) @ centred / terms) ** 0.5
    assert found.distance(torch.from_numpy(x)) == pytest.approx(expected, rel=1e-2)


def test_the_quantile_is_the_share_of_training_answers_that_lay_nearer():
    rows = np.random.default_rng(0).normal(size=(500, 8))
    found = fitted(rows, 5)
    assert found.terms == 8
    measured = [found.measure(torch.from_numpy(row)) for row in rows]
    quantiles = sorted(m["quantile"] for m in measured)
    np.testing.assert_allclose(quantiles, np.linspace(0, 1, 500), atol=0.02)
    assert sum(m["flag"] for m in measured) == pytest.approx(5, abs=3)
    far = found.measure(torch.full((8,), 50.0).double())
    assert (far["quantile"], far["flag"]) == (1.0, True)
    assert far["distance"] > 10
    assert found.measure(torch.from_numpy(rows.mean(0)))["quantile"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": torch.zeros(4)}, r"mean \[4\], projection \[2, 3\]"),
        ({"projection": torch.zeros(3)}, r"projection \[3\]"),
        ({"projection": torch.zeros(0, 3)}, r"projection \[0, 3\]"),
        ({"quantiles": torch.zeros(1)}, r"quantiles \[1\]"),
        ({"quantiles": torch.tensor([1.0, 0.0])}, "may not ascend"),
        ({"mean": torch.tensor([0.0, torch.nan, 0.0])}, "not finite"),
        ({"flag_above": 1.5}, "flagged above 1.5"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], words: str):
    whole: dict[str, Any] = {"mean": torch.zeros(3), "projection": torch.zeros(2, 3), "quantiles": torch.zeros(101)}
    assert Unlike(**whole).terms == 3
    with pytest.raises(ArtifactError, match=words):
        Unlike(**whole | change)
