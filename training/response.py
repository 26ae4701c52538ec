"""From the best window and the grounding terms to a response's log-odds.

Few numbers, fitted on answers that the token head never saw: a weight for the window and one for each grounding term,
none below zero, since more that the prompt lacks can never make an answer more faithful. Data sets weigh the same, and
so do the labels within one: each set has an intercept of its own while fitting, so that base rates teach nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import minimize
from scipy.special import expit

from groundwire.additive import Shapes
from groundwire.grounding import GroundingHead
from groundwire.source import Source
from groundwire.training.data import LabelledExample

# Chosen for telling the same story on every data set tried (benchmarks/results/search.json).
GROUNDING = ("soft_absent_words", "absent_numbers", "absent_bigrams")
PENALTY = 0.01  # ridge on standardised columns, per unit of total weight
CAP = 0.995  # quantile of a grounding term beyond which it adds no more


@dataclass(frozen=True)
class ResponseModel:
    """`window_weight * window + grounding contributions` is a log-odds up to calibration.

    also: weights of other columns that were asked for; they are linear, without a cap.
    """

    window_weight: float
    grounding: GroundingHead | None
    also: Mapping[str, float] = field(default_factory=dict)

    def logits(self, windows: Float[np.ndarray, " n"], measured: Sequence[dict[str, float]]) -> Float[np.ndarray, " n"]:
        extra = [float(self.grounding.contributions(m).sum()) for m in measured] if self.grounding else 0.0
        return self.window_weight * windows + np.asarray(extra)


def measure(examples: Sequence[LabelledExample]) -> list[dict[str, float]]:
    """Grounding terms of every answer; answers to one prompt share its index."""
    return [source.grounding.measure(example.response) for example, source in with_sources(examples)]


def with_sources(examples: Iterable[LabelledExample]) -> Iterator[tuple[LabelledExample, Source]]:
    """Each example with its source; answers to one prompt, which stand together, share it and its indexes."""
    last: Source | None = None
    for example in examples:
        source = Source.of(example)
        last = last if last == source else source
        yield example, last


def fit_response(
    windows: Float[np.ndarray, " n"],
    measured: Sequence[dict[str, float]],
    labels: Shaped[np.ndarray, " n"],
    datasets: Shaped[np.ndarray, " n"],
    names: Sequence[str] = GROUNDING,
    *,
    also: Sequence[str] = (),
) -> ResponseModel:
    """Fit the weights. A data set with one label only teaches nothing and is left out."""
    columns = (*names, *also)
    x = np.column_stack([windows, *([m[name] for m in measured] for name in columns)])
    caps = np.quantile(x, CAP, axis=0)
    for j in range(len(names)):
        x[:, 1 + j] = np.minimum(x[:, 1 + j], caps[1 + j])
    scale = np.maximum(x.std(0), 1e-6)
    weights, sets = np.zeros(len(labels)), np.zeros((len(labels), 0))
    for name in np.unique(datasets):
        own = datasets == name
        for label in (0, 1):
            cell = own & (labels == label)
            if 0 < cell.sum() < own.sum():
                weights[cell] = 0.5 / cell.sum()
        sets = np.column_stack([sets, own])
    design = np.column_stack([x / scale, sets])
    ridge = np.r_[np.full(x.shape[1], PENALTY * weights.sum()), np.full(sets.shape[1], 1e-9)]

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        z = design @ beta
        value = float((weights * (np.logaddexp(0, z) - labels * z)).sum() + 0.5 * (ridge * beta**2).sum())
        return value, design.T @ (weights * (expit(z) - labels)) + ridge * beta

    bounds = [(0.0, None)] * x.shape[1] + [(None, None)] * sets.shape[1]
    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    slopes = found[: x.shape[1]] / scale
    kept = [j for j in range(len(names)) if slopes[1 + j] > 0]
    tops = [max(float(caps[1 + j]), 1e-3) for j in kept]
    shapes = [np.array([0.0, slopes[1 + j] * top]) for j, top in zip(kept, tops, strict=True)]
    head = (
        GroundingHead(
            tuple(names[j] for j in kept), Shapes.piecewise_linear([np.array([0.0, top]) for top in tops], shapes)
        )
        if kept
        else None
    )
    return ResponseModel(float(slopes[0]), head, dict(zip(also, slopes[1 + len(names) :].tolist(), strict=True)))
