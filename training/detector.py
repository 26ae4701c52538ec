"""Trains a detector by the RAGLens recipe: labelled answers in, an artifact with its card out.

    read_labelled -> collect_features -> out-of-fold fits -> calibrate -> fit on all -> Artifact

Calibration, thresholds and figures come from out-of-fold logits; the shipped model is fitted on all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from groundwire.artifact import Artifact, Probe
from groundwire.engines.transformers import TransformersEngine
from groundwire.sae import Dictionary
from groundwire.scoring import Pooling, Scorer
from groundwire.training.calibrate import calibrate
from groundwire.training.data import LabelledExample, folds
from groundwire.training.features import Features
from groundwire.training.fit import Fitted, fit_ebm
from groundwire.training.metrics import figures
from groundwire.training.select import select
from groundwire.training.tokens import calibrate_tokens
from groundwire.types import Term

FOLDS = 5


@dataclass(frozen=True)
class OutOfFold:
    """What models that never saw a row's group say about it: `logits` `[rows]` and, per row, `token_sums` `[tokens]`,
    the contributions of the latents that peak in each token."""

    logits: Float[np.ndarray, " rows"]
    token_sums: list[Float[np.ndarray, " _"]]  # each of its own length


def fit_recipe(
    features: Features, labels: np.ndarray, rows: np.ndarray, *, n_latents: int, seed: int, n_jobs: int
) -> tuple[np.ndarray, Fitted]:
    """Chosen latents and the EBM on them, from `rows` alone."""
    chosen = select(features.maximum[rows], labels[rows], n_latents)
    return chosen, fit_ebm(features.maximum[rows][:, chosen], labels[rows], seed, n_jobs=n_jobs)


def out_of_fold(
    features: Features,
    examples: Sequence[LabelledExample],
    *,
    n_latents: int,
    k: int = FOLDS,
    seed: int = 0,
    n_jobs: int = 1,
    done: Callable[[], object] = lambda: None,
) -> OutOfFold:
    """Grouped cross-validation with the selection inside each fold. `done` is called after every fold."""
    labels = np.array([e.label for e in examples])
    logits = np.full(len(examples), np.nan)
    sums: list[np.ndarray] = [np.zeros(0)] * len(examples)
    for train, test in folds([e.group for e in examples], labels.tolist(), k, seed):
        chosen, fitted = fit_recipe(features, labels, train, n_latents=n_latents, seed=seed, n_jobs=n_jobs)
        contributions = fitted.shapes(torch.from_numpy(features.maximum[test][:, chosen])).numpy()
        logits[test] = fitted.intercept + contributions.sum(-1)
        for row, values in zip(test, contributions, strict=True):
            length = features.length[row]  # without tokens there is no peak either
            sums[row] = np.bincount(features.peak[row, chosen].clip(0), values, minlength=length)[:length]
        done()
    return OutOfFold(logits, sums)


def train_detector(
    examples: Sequence[LabelledExample],
    features: Features,
    dictionary: Dictionary,
    engine: TransformersEngine,
    *,
    detector_id: str,
    version: str,
    n_latents: int,
    describe: Callable[[Sequence[int]], dict[int, dict[str, Any]]],
    about: dict[str, Any],
    seed: int = 0,
    n_jobs: int = 1,
    done: Callable[[], object] = lambda: None,
) -> Artifact:
    """The artifact, with out-of-fold figures by data set in `about["figures"]`; the card is the caller's.

    describe: labels of the chosen latents by feature id (`training.labels.label_latents`).
    Raises InputError where there are too few groups of a label for the folds.
    """
    labels = np.array([e.label for e in examples])
    unseen = out_of_fold(features, examples, n_latents=n_latents, seed=seed, n_jobs=n_jobs, done=done)
    groups, datasets = np.array([e.group for e in examples]), np.array([e.dataset for e in examples])
    calibrated = calibrate(unseen.logits, labels, groups, datasets)
    tokens = calibrate_tokens(engine.tokenizer, examples, [calibrated.scale * sums for sums in unseen.token_sums])
    chosen, fitted = fit_recipe(
        features, labels, np.arange(len(examples)), n_latents=n_latents, seed=seed, n_jobs=n_jobs
    )
    done()
    ids = [int(i) for i in chosen]
    latents = describe(ids)
    scorer = Scorer(
        encoder=dictionary.select(ids, activation="pre"),
        shapes=fitted.shapes.scaled(calibrated.scale),
        intercept=calibrated.scale * fitted.intercept + calibrated.shift,
        pooling=Pooling("max"),
        token_intercept=tokens.intercept,
        token_scale=tokens.scale,
    )
    threshold = calibrated.thresholds["balanced_accuracy"]
    measured = {
        "figures": figures_by_set(
            examples, calibrated.scores(unseen.logits), threshold, f"{FOLDS}-fold by group", seed
        ),
        "tokens": tokens.figures,
        "calibration": {"scale": calibrated.scale, "shift": calibrated.shift, "prevalence": calibrated.prevalence},
    }
    return Artifact(
        id=detector_id,
        version=version,
        model=engine.model_id,
        fingerprint=engine.fingerprint,
        hookpoint=engine.hookpoint,
        scorer=scorer,
        terms=tuple(Term("latent", latents[i]["label"], i) for i in ids),
        thresholds=calibrated.thresholds,
        prevalence=calibrated.prevalence,
        spans=tokens.rule,
        probe=Probe.record(engine),
        latents={str(i): latents[i] for i in ids},
        about={**about, **measured},
    )


def figures_by_set(
    examples: Sequence[LabelledExample], scores: Float[np.ndarray, " rows"], threshold: float, split: str, seed: int
) -> list[dict[str, Any]]:
    """One entry per data set; `split` says how the rows were held out."""
    found = []
    for dataset in dict.fromkeys(e.dataset for e in examples):
        rows = [i for i, e in enumerate(examples) if e.dataset == dataset]
        own = figures([examples[i] for i in rows], scores[rows], threshold, seed=seed)
        found.append({"dataset": dataset, "split": split, **own})
    return found
