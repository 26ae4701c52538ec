"""A fitted token-level detector becomes an artifact: calibration folded into the shapes, tokens and spans calibrated,
distances to the training data recorded. All of it is learned on the groups that were kept back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from groundwire.artifact import Artifact, Probe
from groundwire.engines.transformers import TransformersEngine
from groundwire.grounding import GroundingHead
from groundwire.scoring import Pooling, Scorer
from groundwire.training.data import LabelledExample
from groundwire.training.pipeline import Fitted
from groundwire.training.rows import TokenRows
from groundwire.training.tokens import calibrate_tokens
from groundwire.types import Term
from groundwire.unlike import Unlike

SMOOTHING = 4  # tokens on either side; spans are longer than a token (benchmarks/results/compare.json)
DIMENSIONS = 32  # leading subspace in which distances to the training data are taken
_SHRINK = 1e-3  # of the largest variance, added to each: directions that hardly vary must not decide
RESIDUAL_NAME = "one direction of the residual stream, beyond the latents"


def pack(
    fitted: Fitted,
    examples: Sequence[LabelledExample],
    rows: TokenRows,
    engine: TransformersEngine,
    *,
    detector_id: str,
    version: str,
    describe: Callable[[Sequence[int]], dict[int, dict[str, Any]]],
    about: dict[str, Any],
) -> Artifact:
    """The artifact. examples, rows: all that `fitted` was given, in that order.

    describe: labels of latents by feature id (`training.labels.label_latents`).
    """
    head, calibrated = fitted.head, fitted.calibrated
    held_out = [examples[i] for i in fitted.held_out]
    sums = _token_sums(fitted, rows)
    tokens = calibrate_tokens(engine.tokenizer, held_out, [smoothed(sums[i], SMOOTHING) for i in fitted.held_out])
    scale = calibrated.scale * fitted.response.window_weight
    grounding = fitted.response.grounding.scaled(calibrated.scale) if fitted.response.grounding else None
    latents = describe(head.feature_ids)
    terms = [Term("latent", latents[i]["label"], i) for i in head.feature_ids]
    return Artifact(
        id=detector_id,
        version=version,
        model=engine.model_id,
        fingerprint=engine.fingerprint,
        hookpoint=engine.hookpoint,
        scorer=Scorer(
            encoder=head.encoder,
            shapes=head.shapes.scaled(scale),
            intercept=calibrated.shift,
            pooling=Pooling("window", fitted.options.window),
            token_intercept=tokens.intercept,
            token_scale=tokens.scale / scale,
            token_smoothing=SMOOTHING,
        ),
        grounding=grounding,
        unlike=distances(head.encoder, rows, fitted.held_out),
        terms=(*terms, Term("residual", RESIDUAL_NAME), *(grounding.terms if grounding else ())),
        thresholds=calibrated.thresholds,
        prevalence=calibrated.prevalence,
        spans=tokens.rule,
        probe=Probe.record(engine),
        latents={str(i): latents[i] for i in head.feature_ids},
        about={
            **about,
            "tokens": tokens.figures,
            "grounding": _weights(grounding),
            "calibration": {
                "scale": calibrated.scale,
                "shift": calibrated.shift,
                "prevalence": calibrated.prevalence,
                "rows": len(held_out),
                "groups": len({e.group for e in held_out}),
                "notes": list(calibrated.notes),
            },
        },
    )


def distances(encoder: Any, rows: TokenRows, held_out: np.ndarray) -> Unlike:
    """Whitening from the answers the head was fitted on, quantiles from those kept back."""
    means = _mean_features(encoder, rows)
    spoken = np.diff(rows.offsets) > 0
    kept_back = np.zeros(len(rows), bool)
    kept_back[held_out] = True
    fitted_on = means[torch.from_numpy(spoken & ~kept_back)]
    centre = fitted_on.mean(0)
    covariance = torch.cov((fitted_on - centre).T)
    variances, axes = torch.linalg.eigh(covariance)
    k = min(DIMENSIONS, len(variances))
    leading, axes = variances[-k:].flip(0), axes[:, -k:].flip(1)
    projection = (axes / (leading + _SHRINK * leading[0]).sqrt()).T
    unlike = Unlike(centre, projection, torch.linspace(0, 1, 101))
    found = [unlike.distance(mean) for mean in means[torch.from_numpy(spoken & kept_back)]]
    return Unlike(centre, projection, torch.quantile(torch.tensor(found), torch.linspace(0, 1, 101)))


def smoothed(values: Float[np.ndarray, " n"], half: int) -> Float[np.ndarray, " n"]:
    """Centred means over `2 * half + 1` values, over fewer at the ends: what `Scorer.token_smoothing` does."""
    if not len(values):
        return values
    sums = np.r_[0.0, values.cumsum()]
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _token_sums(fitted: Fitted, rows: TokenRows) -> dict[int, np.ndarray]:
    parts = {}
    for i in fitted.held_out:
        parts[int(i)] = fitted.head.token_sums(rows.rows[rows.offsets[i] : rows.offsets[i + 1]])
    return parts


def _mean_features(encoder: Any, rows: TokenRows) -> torch.Tensor:
    found = []
    for i in range(len(rows)):
        own = torch.from_numpy(rows.rows[rows.offsets[i] : rows.offsets[i + 1]]).float()
        found.append(encoder(own).double().mean(0) if len(own) else torch.zeros(encoder.bias.shape[0]).double())
    return torch.stack(found)


def _weights(grounding: GroundingHead | None) -> dict[str, float]:
    """Log-odds each grounding term adds at most."""
    if grounding is None:
        return {}
    tops = [float(values[torch.isfinite(values)].max()) for values in grounding.shapes.values]
    return dict(zip(grounding.names, tops, strict=True))
