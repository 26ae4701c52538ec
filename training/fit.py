"""Fits the additive classifier of RAGLens (arXiv 2512.08892) and exports it as arrays."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from interpret.glassbox import ExplainableBoostingClassifier
from jaxtyping import Float, Shaped

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError, InputError

# As in the authors' code; what is not named stays at InterpretML's default (14 outer bags).
RECIPE = {
    "interactions": 0,
    "max_bins": 32,
    "early_stopping_tolerance": 1e-5,
    "validation_size": 0.1,
    "max_rounds": 1000,
}
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Fitted:
    """An additive model, `logit = intercept + sum over terms of shapes(features)`, and the EBM it was exported from."""

    intercept: float
    shapes: Shapes
    model: Any

    def logits(self, features: Float[np.ndarray, "n features"]) -> Float[np.ndarray, " n"]:
        """Log-odds of unfaithful, from the exported arrays."""
        return self.intercept + self.shapes(torch.tensor(features)).sum(-1).numpy()


def fit_ebm(
    features: Float[np.ndarray, "n features"], labels: Shaped[np.ndarray, " n"], seed: int = 0, *, n_jobs: int = 1
) -> Fitted:
    """Fit an EBM without interactions by the RAGLens recipe; the same seed gives the same model, whatever `n_jobs`.

    n_jobs: processes over which the outer bags are spread (joblib's meaning).
    Raises InputError on features that are not finite or labels of one kind, ArtifactError where the exported arrays
    differ from the EBM's own decision function on the training rows by more than `TOLERANCE`.
    """
    if not np.isfinite(features).all():
        raise InputError("features with NaN or infinity", expected="finite activations", remedy="collect them again")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError(f"labels {np.unique(labels).tolist()}", expected="both 0 and 1", remedy="add labelled rows")
    # Named continuous: InterpretML takes a feature with two distinct values for a category.
    kinds = ["continuous"] * features.shape[1]
    model = ExplainableBoostingClassifier(**RECIPE, feature_types=kinds, random_state=seed, n_jobs=n_jobs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"interpret\b")
        model.fit(features, np.asarray(labels).astype(int))
    fitted = Fitted(float(model.intercept_[0]), export(model), model)
    _check_equal(fitted, features)
    return fitted


def export(model: ExplainableBoostingClassifier) -> Shapes:
    """The EBM's tables as step functions, one per feature, in the order of the features.

    A table holds the missing bin first and the unseen one last; neither occurs with finite continuous features.
    """
    cuts = [np.asarray(levels[0], float) for levels in model.bins_]
    values = [np.zeros(len(c) + 1) for c in cuts]
    for term, scores in zip(model.term_features_, model.term_scores_, strict=True):
        if len(term) != 1:
            raise ArtifactError(f"the EBM has the interaction {term}", expected="an EBM fitted with interactions=0")
        values[term[0]] = scores[1:-1]
    return Shapes.steps(cuts, values)


def _check_equal(fitted: Fitted, features: np.ndarray) -> None:
    gap = float(np.abs(fitted.logits(features) - fitted.model.decision_function(features)).max())
    if not gap <= TOLERANCE:
        raise ArtifactError(
            f"exported arrays and EBM differ by {gap:.3g}",
            expected=f"at most {TOLERANCE:g}",
            remedy="this version of interpret-core keeps its tables in another way; install a supported one",
        )
