from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from groundwire.additive import Shapes
from groundwire.sae import Dictionary
from groundwire.scoring import Pooling, Scorer
from groundwire.types import Term

WIDTH = 20


@pytest.fixture
def dictionary():
    return Dictionary(torch.eye(WIDTH), torch.zeros(WIDTH), torch.eye(WIDTH), torch.zeros(WIDTH), "relu")


def _artifact(dictionary, weight: float):
    """Reads latents 0 to 9, each with the same weight."""
    ids = list(range(10))
    shapes = Shapes.piecewise_linear([np.array([0.0, 100.0])] * 10, [np.array([0.0, 100.0 * weight])] * 10)
    scorer = Scorer(dictionary.select(ids, activation="pre"), shapes, 0.0, Pooling("window", 8))
    return SimpleNamespace(scorer=scorer, terms=[Term("latent", str(i), i) for i in ids])


def test_in_an_orthogonal_dictionary_the_fall_is_what_the_contributions_say(script, dictionary):
    rows = torch.rand(8, WIDTH, generator=torch.Generator().manual_seed(0)) + 0.1
    rows[:, :5] += 1.0
    said, named, control = script("ablation").ablate(_artifact(dictionary, 0.5), dictionary, rows)
    assert said == pytest.approx(named)
    assert named > control >= 0


def test_too_few_active_latents_that_raise_the_score(script, dictionary):
    assert script("ablation").ablate(_artifact(dictionary, -0.5), dictionary, torch.rand(8, WIDTH)) is None
