"""A detector that exists, fitted to labelled answers of one's own: scale, shift, thresholds and reference prevalence.

Pure: logits and labels in, an artifact or figures out. The order of answers never changes, so neither does the AUC.
Scale and shift are the most probable ones under `PRIOR`, which expects the detector's own (1 and 0): few rows move them
little. What that is worth on held-out rows is measured by `cross_validate` and `recalibration_curve`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy.special import expit

from groundwire.artifact import Artifact
from groundwire.calibration import log_odds, sigmoid
from groundwire.errors import InputError
from groundwire.spans import SpanRule
from groundwire.training.calibrate import TARGETS, Calibrated, Prior, calibrate
from groundwire.training.data import folds
from groundwire.training.metrics import balanced_accuracy, brier, debiased_ece

PRIOR = Prior()
_TRIES = 100  # draws for one that has both labels on either side


def recalibrated(artifact: Artifact, calibrated: Calibrated, entry: Mapping[str, Any]) -> Artifact:
    """The artifact with scale and shift folded into intercept and shapes, so that its score is
    `sigmoid(scale * logit + shift)` and still `sigmoid(intercept + sum of contributions)`.

    Tokens keep their own calibration: the token scale is divided by what the shapes were multiplied with, so token
    scores and spans stay as they are. entry: what it was fitted on, kept under `about["recalibrations"]`.
    """
    scorer, scale, shift = artifact.scorer, calibrated.scale, calibrated.shift
    return replace(
        artifact,
        version=artifact.version if artifact.version.endswith("+recalibrated") else f"{artifact.version}+recalibrated",
        scorer=replace(
            scorer,
            shapes=scorer.shapes.scaled(scale),
            intercept=scale * scorer.intercept + shift,
            token_scale=scorer.token_scale / scale,
            end_shapes=scorer.end_shapes.scaled(scale) if scorer.end_shapes else None,
        ),
        spans=_moved(artifact.spans, scale, shift),
        grounding=artifact.grounding.scaled(scale) if artifact.grounding else None,
        binding=artifact.binding.scaled(scale) if artifact.binding else None,
        thresholds=calibrated.thresholds,
        prevalence=calibrated.prevalence,
        about={
            **artifact.about,
            "recalibrations": [
                *artifact.about.get("recalibrations", []),
                {"scale": scale, "shift": shift, "prevalence": calibrated.prevalence, **entry},
            ],
        },
    )


def _moved(rule: SpanRule, scale: float, shift: float) -> SpanRule:
    """The rule where sentences and faults are: they move with the score, tokens do not."""
    sentence = rule.sentence
    if 0 < sentence < 1:
        sentence = sigmoid(scale * log_odds(sentence) + shift)
    return replace(rule, sentence=sentence, fault=None if rule.fault is None else scale * rule.fault)


@dataclass(frozen=True)
class HeldOut:
    """What recalibrations that never saw a row's group say of it: its score, and whether it is flagged, by target."""

    scores: Float[np.ndarray, " n"]
    flagged: dict[str, Bool[np.ndarray, " n"]]


def cross_validate(
    logits: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    datasets: Shaped[np.ndarray, " n"] | None = None,
    *,
    k: int = 5,
    seed: int = 0,
    prior: Prior | None = PRIOR,
    targets: Sequence[str] = TARGETS,
) -> HeldOut:
    """Recalibration on k - 1 parts of the groups, applied to the other; k times.

    Raises InputError where a label occurs in fewer than `k` groups.
    """
    scores = np.zeros(len(labels))
    flagged = {target: np.zeros(len(labels), bool) for target in targets}
    for train, test in folds(groups, labels, k, seed):
        of_train = None if datasets is None else datasets[train]
        fitted = calibrate(logits[train], labels[train], groups[train], of_train, targets, prior=prior)
        scores[test] = fitted.scores(logits[test])
        for target in targets:
            flagged[target][test] = scores[test] > fitted.thresholds[target]
    return HeldOut(scores, flagged)


def recalibration_curve(
    logits: Float[np.ndarray, " n"],
    labels: Shaped[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    sizes: Sequence[int],
    repeats: int,
    seed: int,
    *,
    thresholds: Mapping[str, float] | None = None,
    limit: str = "fpr<=0.05",
    prior: Prior | None = PRIOR,
) -> list[dict[str, Any]]:
    """What recalibrating on 50, 100, ... rows is worth on the groups that were not used.

    logits, labels, groups: of one data set. sizes: rows to fit on. Each repeat takes groups at random until it has that
    many rows, and judges on all rows of the groups it did not touch; draws that lack a label on either side are drawn
    again, as such rows are refused. thresholds: the detector's own, by target, for the line of 0 rows (all rows are
    judged, nothing is fitted). prior: None fits freely.

    Returns one entry per size, 0 first: {"rows", "repeats", figure: {"mean", "low", "high"}}, low and high being the
    5 % and 95 % quantiles over repeats. Figures: brier and debiased_ece; balanced_accuracy, false_alarm_rate and found
    (share of unfaithful rows flagged) at the threshold for balanced accuracy; `{limit} false_alarm_rate` and
    `{limit} found` at the other. At 0 rows a figure without its threshold is absent.
    Raises InputError where a size leaves no groups with both labels to judge on.
    """
    own = {target: score for target, score in (thresholds or {}).items() if target in ("balanced_accuracy", limit)}
    curve = [_summary(0, [_judge(labels, expit(logits), own, limit)])]
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        found = []
        for _ in range(repeats):
            used, rest = _draw(labels, groups, size, rng)
            fitted = calibrate(
                logits[used], labels[used], groups[used], targets=("balanced_accuracy", limit), prior=prior
            )
            found.append(_judge(labels[rest], fitted.scores(logits[rest]), fitted.thresholds, limit))
        curve.append(_summary(size, found))
    return curve


def _draw(labels: np.ndarray, groups: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`size` rows of random groups, and all rows of the others."""
    names, member = np.unique(groups, return_inverse=True)
    for _ in range(_TRIES):
        used = np.argsort(rng.permutation(len(names))[member], kind="stable")[:size]
        rest = np.flatnonzero(~np.isin(member, member[used]))
        if all(len(np.unique(labels[rows])) == 2 for rows in (used, rest)):
            return used, rest
    raise InputError(
        f"{size} rows to fit on out of {len(labels)} in {len(names)} groups",
        expected="both labels among them, and among the groups left to judge on",
        remedy="choose sizes well below the number of rows, or bring more rows",
    )


def _judge(labels: np.ndarray, scores: np.ndarray, thresholds: Mapping[str, float], limit: str) -> dict[str, float]:
    figures = {"brier": brier(labels, scores), "debiased_ece": debiased_ece(labels, scores)}
    if "balanced_accuracy" in thresholds:
        figures["balanced_accuracy"] = balanced_accuracy(labels, scores > thresholds["balanced_accuracy"])
    for prefix, target in (("", "balanced_accuracy"), (f"{limit} ", limit)):
        if target in thresholds:
            flagged = scores > thresholds[target]
            figures[f"{prefix}false_alarm_rate"] = float(flagged[labels == 0].mean())
            figures[f"{prefix}found"] = float(flagged[labels == 1].mean())
    return figures


def _summary(size: int, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    entry: dict[str, Any] = {"rows": size, "repeats": len(found)}
    for name in found[0]:
        values = np.array([figures[name] for figures in found])
        low, high = np.quantile(values, [0.05, 0.95])
        entry[name] = {"mean": float(values.mean()), "low": float(low), "high": float(high)}
    return entry
