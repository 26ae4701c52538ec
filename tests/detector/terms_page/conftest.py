"""What these tests share: a detector with terms of every kind and direction, named by somebody hostile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from groundwire.additive import Shapes
from groundwire.artifact import Artifact
from groundwire.engines.fake import D_MODEL, fake_detector
from groundwire.grounding import GroundingHead
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer
from groundwire.types import Term
from groundwire.unlike import Unlike

HOSTILE = "<script>alert('x')</script>\"&</style>"
NAMES = (f"raises {HOSTILE}", "lowers", "both ways", "nothing")
KNOTS = ([-2.0, 3.0], [-4.0, 0.0, 4.0], [-1.0, 0.0, 1.0], [0.0, 1.0], [-1.0, 1.0])
VALUES = ([-0.1, 0.4], [0.5, 0.1, -0.9], [-0.3, 0.3, -0.2], [0.2, 0.2], [-0.6, 0.6])


def about(name: str) -> dict[str, Any]:
    example = {"activation": 12.34, "before": f"before {name}", "token": f" {name}", "after": f"\nafter {name}"}
    return {"label": name, "top_tokens": [f" {name}", name, "\n"], "promotes": [f"pro {name}"], "examples": [example]}


@pytest.fixture
def artifact() -> Artifact:
    """Four latents (raises, lowers, both, flat), a residual direction and two grounding terms."""
    latents = [Term("latent", name, 10 + i) for i, name in enumerate(NAMES)]
    shapes = Shapes.piecewise_linear([np.array(k) for k in KNOTS], [np.array(v) for v in VALUES])
    heads = Shapes.piecewise_linear(
        [np.array([0.0, 3.0]), np.array([0.2, 0.8])], [np.array([0.0, 2.0]), np.array([0.1, 0.0])]
    )
    grounding = GroundingHead(("absent_numbers", "absent_share"), heads)
    encoder = SparseEncoder(torch.eye(5, D_MODEL), torch.zeros(5))
    base = fake_detector().artifact
    return replace(
        base,
        scorer=Scorer(encoder, shapes, intercept=-2.0, pooling=Pooling("window", window_weight=1.0)),
        terms=(*latents, Term("residual", "a direction"), *grounding.terms),
        grounding=grounding,
        unlike=Unlike(torch.arange(5.0) / 10, torch.eye(2, 5), torch.tensor([0.0, 1.0])),
        latents={str(term.feature_id): about(term.name) for term in latents},
    )


@pytest.fixture
def with_shapes(artifact: Artifact) -> Callable[..., Artifact]:
    """The same with other shapes (and fields of the scorer) for as many latents, without anything else."""

    def with_shapes(shapes: Shapes, rectify: bool = False, **scorer: Any) -> Artifact:
        encoder = SparseEncoder(torch.eye(shapes.terms, D_MODEL), torch.zeros(shapes.terms), rectify=rectify)
        return replace(
            artifact,
            scorer=Scorer(encoder, shapes, intercept=0.0, **scorer),
            terms=tuple(Term("latent", f"latent {i}", i) for i in range(shapes.terms)),
            grounding=None,
            unlike=None,
            latents={},
        )

    return with_shapes
