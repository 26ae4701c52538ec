"""From log-odds to probability, thresholds by target, and the shift to another share of unfaithful answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from groundwire.errors import InputError


def sigmoid(logit: float) -> float:
    """Probability of log-odds `logit`, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    return math.exp(logit) / (1 + math.exp(logit))


def log_odds(probability: float) -> float:
    """Inverse of `sigmoid`; raises InputError outside (0, 1)."""
    if not 0 < probability < 1:
        raise InputError(f"probability {probability}", expected="a number between 0 and 1, both excluded")
    return math.log(probability / (1 - probability))


def prevalence_shift(reference: float, prevalence: float | None) -> float:
    """Log-odds to add when a share `prevalence` of answers is unfaithful instead of the `reference` share.

    Prior shift by Bayes' rule (Saerens, Latinne, Decaestecker 2002, eq. 4 in log-odds): the likelihood ratio of an
    answer stays, the prior odds change.
    """
    return 0.0 if prevalence is None else log_odds(prevalence) - log_odds(reference)


def threshold_for(thresholds: Mapping[str, float], target: str) -> float:
    """The score above which an answer is flagged, by the target it was chosen for.

    Raises InputError naming the targets the artifact knows.
    """
    if target not in thresholds:
        raise InputError(
            f"no threshold for target {target!r}",
            expected=f"one of {', '.join(map(repr, thresholds))}",
            remedy="pass one of these as target=..., or a number as threshold=...",
        )
    return thresholds[target]
