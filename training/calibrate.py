"""From logits to probabilities and thresholds.

Calibration is a scale and a shift, so it folds into intercept and shapes. Give it logits of rows the model was not
fitted on: those of its own training rows are far too sure. Rows of several data sets are balanced: each data set has
the same total weight, however many rows it brought.

A new model's scale and shift are fitted freely (Platt 1999, with his smoothed targets). A model that is calibrated
already is fitted anew under a `Prior` that expects little to change, so that few rows change little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy.optimize import minimize
from scipy.special import expit

from groundwire.errors import InputError
from groundwire.training.thresholds import choose_threshold, row_weights, shortage

# The limits on false alarms for which an artifact keeps a threshold.
TARGETS = ("balanced_accuracy", "fpr<=0.01", "fpr<=0.02", "fpr<=0.05", "fpr<=0.1", "fpr<=0.2")
# Of the standardised logits. Logits that order rows wrongly end here: every score is then close to the prevalence.
_MIN_SCALE = 1e-3


@dataclass(frozen=True)
class Prior:
    """What a calibrated model is expected to need: `scale * (logit - mean logit) + mean logit + offset`, with
    log(scale) ~ N(0, log_scale_sd²) and offset ~ N(0, offset_sd²), both in nats.

    The offset is taken at the rows' mean logit, so that shrinking the scale does not drag the base rate along. Base
    rates differ by several nats between data sets and are learned from few rows, so the offset is held loosely; the
    scale, which few rows say little about, is held within a factor of about two.
    """

    log_scale_sd: float = 0.5
    offset_sd: float = 1.0


@dataclass(frozen=True)
class Calibrated:
    """`sigmoid(scale * logit + shift)` is the probability of unfaithful at `prevalence`; scale > 0.

    prevalence: share of unfaithful rows, each data set weighing the same. thresholds: score by target; flag above it.
    notes: a sentence for each target whose threshold flags nothing.
    """

    scale: float
    shift: float
    prevalence: float
    thresholds: dict[str, float]
    notes: tuple[str, ...] = ()

    def scores(self, logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return expit(self.scale * logits + self.shift)


def calibrate(
    logits: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    datasets: Shaped[np.ndarray, " n"] | None = None,
    targets: Sequence[str] = TARGETS,
    *,
    weights: Shaped[np.ndarray, " n"] | None = None,
    prior: Prior | None = None,
) -> Calibrated:
    """Scale, shift and one threshold per target, from logits (log-odds) of rows the model was not fitted on.

    groups: source document or question of each row; limits on false alarms hold for new groups (`thresholds`).
    datasets: data set of each row; None = one. weights: of rows within their data set; None = all alike.
    prior: None fits freely; give one where the logits are calibrated already.
    Raises InputError on logits that are not finite, labels of one kind, or an unknown target.
    """
    if not np.isfinite(logits).all():
        raise InputError("logits with NaN or infinity", expected="one finite out-of-fold logit per row")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError(f"labels {np.unique(labels).tolist()}", expected="both 0 and 1", remedy="add labelled rows")
    weight = row_weights(len(logits), datasets, weights)
    prevalence = float(np.average(labels, weights=weight))
    if not 0 < prevalence < 1:
        raise InputError("all rows of one label weigh 0", expected="a positive weight in both", remedy="change weights")
    scale, shift = platt(logits, labels, weight) if prior is None else shrunk(logits, labels, weight, prior)
    scores = expit(scale * logits + shift)
    thresholds = {t: choose_threshold(scores, labels, groups, t, datasets=datasets, weights=weights) for t in targets}
    notes = (shortage(labels, groups, target, datasets) for target in targets)
    return Calibrated(scale, shift, prevalence, thresholds, tuple(note for note in notes if note))


def platt(
    logits: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"], weights: Shaped[np.ndarray, " n"] | None = None
) -> tuple[float, float]:
    """The scale (> 0) and shift that minimise the log-loss of the weighted rows; weights have mean 1."""
    weight = np.ones(len(logits)) if weights is None else weights
    mean = float(np.average(logits, weights=weight))
    spread = float(np.sqrt(np.average((logits - mean) ** 2, weights=weight)))
    deviation = spread if np.ptp(logits) > 0 else 1.0
    x = (logits - mean) / deviation
    positives, negatives = weight[labels == 1].sum(), weight[labels == 0].sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] * x + parameters[1]
        residual = weight * (expit(z) - target)
        cost = weight * (np.logaddexp(0, z) - target * z)
        return float(np.mean(cost)), np.array([np.mean(residual * x), np.mean(residual)])

    start = np.array([1.0, np.log(positives / negatives)])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(_MIN_SCALE, None), (None, None)], tol=1e-12)
    scale, shift = found.x
    return float(scale / deviation), float(shift - scale * mean / deviation)


def shrunk(
    logits: Float[np.ndarray, " n"], labels: Shaped[np.ndarray, " n"], weights: Shaped[np.ndarray, " n"], prior: Prior
) -> tuple[float, float]:
    """Scale and shift of the greatest posterior density under `prior`; weights have mean 1."""
    mean = float(np.average(logits, weights=weights))
    x = logits - mean

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        log_scale, offset = parameters
        scaled = np.exp(log_scale) * x
        z = scaled + mean + offset
        residual = weights * (expit(z) - labels)
        cost = (weights * (np.logaddexp(0, z) - labels * z)).sum()
        strain = np.array([log_scale / prior.log_scale_sd**2, offset / prior.offset_sd**2])
        penalty = float((strain * parameters).sum() / 2)
        slope = np.array([(residual * scaled).sum(), residual.sum()]) + strain
        return float(cost + penalty) / len(x), slope / len(x)

    bounds = [(-10.0, 10.0), (-50.0, 50.0)]
    log_scale, offset = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds, tol=1e-12).x
    scale = float(np.exp(log_scale))
    return scale, float(mean + offset - scale * mean)
