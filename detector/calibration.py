"""From log-odds to probability, thresholds by target, and the shift to another share of unfaithful answers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from groundwire.errors import InputError

# Possessive throughout: no text takes more than linear time.
_LIMIT = re.compile(r"\s*+fpr\s*+(?:<=?|≤)\s*+(?P<number>\d++(?:\.\d*+)?|\.\d++)\s*+(?P<percent>%?)\s*+", re.IGNORECASE)


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


def parse_limit(target: str) -> float | None:
    """The largest share of false alarms that a target allows: 0.05 for "fpr<=0.05"; None for any other kind of target.

    Spaces, case, "<" or "≤" for "<=", and a percentage ("fpr <= 5%") make no difference.
    """
    found = _LIMIT.fullmatch(target)
    if found is None:
        return None
    share = float(found["number"]) / (100 if found["percent"] else 1)
    return share if 0 <= share <= 1 else None


def normal_target(target: str) -> str:
    """The one spelling under which a target's threshold is kept: "fpr<=0.05", "balanced_accuracy"."""
    limit = parse_limit(target)
    return re.sub(r"[\s-]+", "_", target.strip().lower()) if limit is None else f"fpr<={limit:.12g}"


def threshold_for(thresholds: Mapping[str, float], target: str) -> float:
    """The score above which an answer is flagged, by the target it was chosen for, in any spelling.

    Raises InputError naming the targets the artifact knows; and where its threshold for this one is 1, which no score
    exceeds: too few answers stood behind it, and a detector that never flags would look like a clean bill.
    """
    by_name = {normal_target(name): score for name, score in thresholds.items()}
    wanted = normal_target(target)
    if wanted not in by_name:
        raise InputError(
            f"no threshold for target {target!r}",
            expected=f"one of {', '.join(map(repr, thresholds))}",
            remedy=f"pass one of these as target=..., or a number as threshold=...{_stricter(by_name, wanted)}",
        )
    if by_name[wanted] >= 1:
        usable = [name for name, score in thresholds.items() if score < 1]
        raise InputError(
            f"the threshold for target {target!r} flags nothing: there were too few faithful groups to choose it",
            expected=f"one of {', '.join(map(repr, usable))}" if usable else "a target with a threshold below 1",
            remedy="choose another target, calibrate on more groups, or pass a number as threshold=...",
        )
    return by_name[wanted]


def _stricter(by_name: Mapping[str, float], wanted: str) -> str:
    """A hint at the nearest stricter limit: what keeps fpr<=0.02 keeps fpr<=0.03 as well."""
    limit, best = parse_limit(wanted), ("", 0.0)
    for name, score in by_name.items():
        other = parse_limit(name)
        if limit is not None and other is not None and score < 1 and best[1] < other < limit:
            best = name, other
    return f"; {best[0]!r} is the nearest that keeps this limit" if best[0] else ""
