"""`groundwire calibrate`, from files to an artifact and a table: before, and after on rows that were not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from groundwire.artifact import Artifact
from groundwire.calibration import normal_target
from groundwire.detector import DEFAULT_ARTIFACT, Detector
from groundwire.errors import InputError
from groundwire.training.calibrate import TARGETS, Calibrated, calibrate
from groundwire.training.data import folds
from groundwire.training.metrics import auc, auc_interval, brier, debiased_ece
from groundwire.training.recalibrate import PRIOR, HeldOut, cross_validate, recalibrated
from groundwire.training.scored import Scored, check_labels, read_answers, score_answers
from groundwire.training.thresholds import row_weights

_FAULTS_SHOWN = 3


@dataclass(frozen=True)
class CalibrateRun:
    """The options of `groundwire calibrate`."""

    artifact: Path | None
    model: str | None
    folds: int
    overwrite: bool
    seed: int


@dataclass(frozen=True)
class Recalibration:
    """What a run did: the text to show, the figures in it, and how many lines could not be read."""

    report: str
    figures: dict[str, Any]
    unreadable: int


def run_calibrate(labelled: Sequence[Path], folder: Path, run: CalibrateRun) -> Recalibration:
    """Score the rows of all files, fit to them, write the artifact to `folder`.

    Raises InputError on rows that cannot be used or are too few for the folds, and where `folder` would be overwritten.
    """
    check_folder(folder, run.artifact or DEFAULT_ARTIFACT, overwrite=run.overwrite)
    answers, faults = read_answers(labelled)
    folds([a.group for a in answers], [a.label for a in answers], run.folds, run.seed)  # too few fail before scoring
    detector = Detector.from_pretrained(run.artifact, model=run.model)
    scored = score_answers(detector, answers)
    artifact, figures = fit_scored(detector.artifact, scored, k=run.folds, seed=run.seed)
    artifact.save_pretrained(folder)
    lines = [_left_out(scored, faults), f"written to {folder}"]
    report = "\n\n".join(part for part in (tables(figures), *lines) if part)
    return Recalibration(report, figures, len(faults))


def fit_scored(artifact: Artifact, scored: Scored, *, k: int, seed: int) -> tuple[Artifact, dict[str, Any]]:
    """The artifact fitted to all scored rows, its card included, and the figures before and after (`k`-fold).

    Where it has a checking reader, that is what gave the logits, and what is fitted.
    """
    if artifact.checking is not None:
        checking, figures = fit_scored(artifact.checking, scored, k=k, seed=seed)
        return replace(artifact, checking=checking), figures
    check_labels(scored.labels)
    columns = (scored.logits, scored.labels, scored.groups, scored.datasets)
    held_out = cross_validate(*columns, k=k, seed=seed)
    calibrated = calibrate(*columns, prior=PRIOR)
    figures = compare(artifact, scored, calibrated, held_out, k=k, seed=seed)
    made = recalibrated(artifact, calibrated, {"prior": asdict(PRIOR), **figures})
    return replace(made, card=f"{artifact.card.rstrip()}\n\n{_section(figures)}\n"), figures


def compare(
    artifact: Artifact, scored: Scored, calibrated: Calibrated, held_out: HeldOut, *, k: int, seed: int
) -> dict[str, Any]:
    """Figures of the detector as it was, and of recalibrations on rows they were not fitted on.

    Brier and debiased ECE are by data set; false alarms and found are shares over all rows, each data set weighing the
    same. `before` of a target the artifact did not know is None.
    """
    before = expit(scored.logits)
    old = {normal_target(target): score for target, score in artifact.thresholds.items()}
    return {
        "rows": len(scored.labels),
        "unfaithful": int(scored.labels.sum()),
        "groups": len(np.unique(scored.groups)),
        "folds": k,
        "seed": seed,
        "scale": calibrated.scale,
        "shift": calibrated.shift,
        "prevalence": {"before": artifact.prevalence, "after": calibrated.prevalence},
        "datasets": [
            _dataset(scored, name, before, held_out.scores, seed) for name in dict.fromkeys(scored.datasets.tolist())
        ],
        "targets": {
            target: {
                "before": _decided(scored, before > old[target], old[target]) if target in old else None,
                "after": _decided(scored, held_out.flagged[target], calibrated.thresholds[target]),
            }
            for target in TARGETS
        },
        "notes": list(calibrated.notes),
    }


def check_folder(folder: Path, artifact: Path, *, overwrite: bool) -> None:
    """Raise InputError where writing to `folder` would lose something."""
    if folder.exists() and folder.resolve() == artifact.resolve():
        raise InputError(
            f"writing to {folder} would replace the detector that is being recalibrated",
            expected="a folder of its own for the new detector",
            remedy="choose another --output",
        )
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} exists and is no detector", expected="a new folder", remedy="choose another one")
    if not overwrite:
        raise InputError(f"{folder} exists", expected="a new folder", remedy="choose another one, or pass --overwrite")


def tables(figures: dict[str, Any]) -> str:
    """The figures as Markdown that is easy to read as it is."""
    k = figures["folds"]
    notes = "".join(f"\n- {note}" for note in figures["notes"])
    counted = f"{figures['rows']} rows in {figures['groups']} groups, {figures['unfaithful']} of them unfaithful"
    prevalence = figures["prevalence"]
    return "\n\n".join(
        [
            f"Fitted on {counted}: scale {figures['scale']:.3f}, shift {figures['shift']:+.3f}; reference share of "
            f"unfaithful answers {prevalence['after']:.1%} (was {prevalence['before']:.1%}).",
            _table(
                ["data set", "rows", "AUC (95 %), unchanged", "Brier before", "after", "debiased ECE before", "after"],
                [_dataset_line(own) for own in figures["datasets"]],
            ),
            _table(
                ["target", "threshold before", "after", "false alarms before", "after", "found before", "after"],
                [_target_line(target, both) for target, both in figures["targets"].items()],
            ),
            "Scale and shift keep the order of the answers, so the AUC is the same by construction. Other figures "
            f'"after" are measured by {k}-fold cross-validation over groups: each row is judged by a fit that did not '
            "see its group. Found is the share of unfaithful answers that are flagged. The thresholds are those of the "
            "fit on all rows, which is what was written. A limit on false alarms holds on average for new groups like "
            f"these, not for other kinds of text.{notes}",
        ]
    )


def _dataset(scored: Scored, name: str, before: np.ndarray, after: np.ndarray, seed: int) -> dict[str, Any]:
    rows = scored.datasets == name
    labels, groups = scored.labels[rows], scored.groups[rows]
    return {
        "dataset": name,
        "rows": int(rows.sum()),
        "unfaithful": int(labels.sum()),
        "groups": len(np.unique(groups)),
        "auc": auc(labels, scored.logits[rows]),
        "auc_interval": auc_interval(labels, scored.logits[rows], groups, seed=seed),
        "brier": {"before": brier(labels, before[rows]), "after": brier(labels, after[rows])},
        "debiased_ece": {"before": debiased_ece(labels, before[rows]), "after": debiased_ece(labels, after[rows])},
    }


def _decided(scored: Scored, flagged: np.ndarray, threshold: float) -> dict[str, float]:
    weights = row_weights(len(flagged), scored.datasets)
    false_alarms, found = (float(np.average(flagged, weights=weights * (scored.labels == label))) for label in (0, 1))
    return {"threshold": threshold, "false_alarm_rate": false_alarms, "found": found}


def _dataset_line(own: dict[str, Any]) -> list[str]:
    low_high = f" ({own['auc_interval'][0]:.3f} to {own['auc_interval'][1]:.3f})" if own["auc_interval"] else ""
    area = "n/a" if own["auc"] is None else f"{own['auc']:.3f}{low_high}"
    errors = [f"{own[name][when]:.3f}" for name in ("brier", "debiased_ece") for when in ("before", "after")]
    return [own["dataset"], str(own["rows"]), area, *errors]


def _target_line(target: str, both: dict[str, Any]) -> list[str]:
    cells = [target]
    for name, form in (("threshold", ".3f"), ("false_alarm_rate", ".1%"), ("found", ".1%")):
        cells += ["n/a" if both[when] is None else format(both[when][name], form) for when in ("before", "after")]
    return cells


def _section(figures: dict[str, Any]) -> str:
    names = ", ".join(f"{own['dataset']} ({own['rows']} rows)" for own in figures["datasets"])
    return (
        f"## Recalibration\n\nScale, shift, thresholds and reference share were fitted anew to {names}; they replace "
        f"those above. What the detector looks at did not change.\n\n{tables(figures)}"
    )


def _left_out(scored: Scored, faults: Sequence[str]) -> str:
    parts = [f"{count} not checked: {reason}" for reason, count in scored.not_checked.most_common()]
    lines = [f"Left out: {', '.join(parts)}."] if parts else []
    if faults:
        more = f" (the first {_FAULTS_SHOWN})" if len(faults) > _FAULTS_SHOWN else ""
        counted = "1 line" if len(faults) == 1 else f"{len(faults)} lines"
        lines.append("\n  ".join([f"{counted} could not be read{more}:", *faults[:_FAULTS_SHOWN]]))
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    rule = " | ".join("-" * width for width in widths)
    return "\n".join(f"| {line} |" for line in (lines[0], rule, *lines[1:]))
