"""Random detectors for the tiny models of conftest, with shapes that cover the activations these models have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from groundwire.adapter import Adapter
from groundwire.additive import Shapes
from groundwire.artifact import PROBE_TEXT, Artifact, Probe
from groundwire.binding import BindingHead
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.grounding import GroundingHead
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer
from groundwire.spans import SpanRule
from groundwire.types import Message, Term
from groundwire.unlike import Unlike

TERMS = 12
HOOKPOINTS = {"tiny-llama": "model.layers.2", "tiny-gpt2": "transformer.h.2"}


def tiny_engine(folder: Path, **options: Any) -> TransformersEngine:
    return TransformersEngine(load_reader(folder, **options), HOOKPOINTS[folder.name])


def random_scorer(engine: TransformersEngine, kind: Literal["max", "window"] = "max") -> Scorer:
    """Random latents; shapes rise and fall by about one log-odd over what the engine's rows hold."""
    rows = engine.read(engine.tokenizer(PROBE_TEXT)["input_ids"])
    random = torch.Generator().manual_seed(1)
    weight = torch.randn(TERMS, rows.shape[1], generator=random) / rows.shape[1] ** 0.5
    encoder = SparseEncoder(weight, torch.zeros(TERMS), torch.full((TERMS,), -1e9), rectify=False)
    features = encoder(rows).numpy()
    knots = [np.linspace(column.min(), column.max(), 6) for column in features.T]
    values = list(np.random.default_rng(1).normal(0, 0.5, (TERMS, 6)))
    pooling = Pooling(kind, window=4, window_weight=0.7, mean_weight=0.3)
    return Scorer(encoder, Shapes.piecewise_linear(knots, values), 0.1, pooling, -0.2, 0.5)


def random_artifact(engine: TransformersEngine, kind: Literal["max", "window"] = "max") -> Artifact:
    return Artifact(
        id="tiny",
        version="1",
        model=engine.model_id,
        fingerprint=engine.fingerprint,
        hookpoint=engine.hookpoint,
        scorer=random_scorer(engine, kind),
        terms=tuple(Term("latent", f"latent {i}", 10 * i) for i in range(TERMS)),
        thresholds={"balanced_accuracy": 0.5, "recall": 0.25, "always": 0.0},
        prevalence=0.3,
        spans=SpanRule(threshold=0.5),
        probe=Probe.record(engine),
        latents={"0": {"label": "years", "tokens": ["1889"]}},
        about={"data": ["made up"]},
        card="# tiny\n",
    )


def grounded(artifact: Artifact) -> Artifact:
    """The artifact with all that an artifact may have: grounding terms, smoothed tokens, the training's distances."""
    knots, names = np.array([0.0, 1.0, 4.0]), ("absent_bigrams", "best_window_soft", "words")
    head = GroundingHead(names, Shapes.piecewise_linear([knots] * 3, [knots * 0.3, knots - 0.5, knots * -0.1]))
    random = torch.Generator().manual_seed(2)
    unlike = Unlike(torch.zeros(TERMS), torch.randn(4, TERMS, generator=random), torch.linspace(0, 3, 101), 0.9)
    scorer = replace(artifact.scorer, token_smoothing=2)
    return replace(artifact, scorer=scorer, terms=(*artifact.terms, *head.terms), grounding=head, unlike=unlike)


def random_adapter(engine: TransformersEngine, rank: int = 2, size: float = 0.15) -> Adapter:
    """An adapter of the layers up to the hookpoint that changes rows visibly; with `size` 0 it changes nothing."""
    new = Adapter.new(engine.model, engine.model.model.layers[:3], rank, 2.0 * rank, seed=3)
    random = torch.Generator().manual_seed(4)
    return replace(
        new, weights={path: (a, torch.randn(b.shape, generator=random) * size) for path, (a, b) in new.weights.items()}
    )


def checking_artifact(engine: TransformersEngine) -> Artifact:
    """What a checking reader's artifact holds: an adapter, sentence ends, grounding terms, thresholds of its own."""
    artifact = grounded(random_artifact(engine, "window"))
    ends = artifact.scorer.shapes
    ends = Shapes(ends.cuts, ends.values.flip(0) * 1.5, ends.slopes.flip(0) * 1.5)
    gaps = Shapes.piecewise_linear([np.array([0.0, 1.0])], [np.array([0.0, 5.0])])
    binding = BindingHead(("misplaced_quantities",), gaps)
    by_token = artifact.scorer.terms
    return replace(
        artifact,
        binding=binding,
        terms=(*artifact.terms[:by_token], *binding.terms, *artifact.terms[by_token:]),
        id="tiny-checking",
        scorer=replace(artifact.scorer, intercept=-0.4, end_shapes=ends),
        thresholds={"balanced_accuracy": 0.6, "recall": 0.35, "always": 0.0},
        adapter=random_adapter(engine),
        focus=1,
    )


def checked_artifact(engine: TransformersEngine) -> Artifact:
    """A detector's, with a checking reader's inside."""
    return replace(grounded(random_artifact(engine, "window")), checking=checking_artifact(engine))


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
