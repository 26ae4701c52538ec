"""Which latents tell unfaithful from faithful: mutual information with the label (RAGLens, arXiv 2512.08892)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Shaped

from groundwire.errors import InputError

BINS = 50
_CHUNK = 512  # features counted at a time: bounds memory, not the result


def mutual_information(
    features: Float[np.ndarray, "n features"], labels: Shaped[np.ndarray, " n"], bins: int = BINS
) -> Float[np.ndarray, " features"]:
    """Mutual information in nats of each feature, cut into `bins` equal-width bins over its own range, with the label.

    The plug-in estimator of the RAGLens authors' code, which also bins in float32. Constant features get 0.
    Raises InputError where a feature is not finite or the labels are not 0 and 1, both present.
    """
    features, positive = _checked(features, labels)
    width = features.shape[1]
    return np.concatenate(
        [np.zeros(0), *(_chunk(features[:, i : i + _CHUNK], positive, bins) for i in range(0, width, _CHUNK))]
    )


def select(
    features: Float[np.ndarray, "n features"], labels: Shaped[np.ndarray, " n"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Indices of the `count` most informative features (all, where there are fewer), most informative first."""
    return np.argsort(-mutual_information(features, labels), kind="stable")[:count]


def _chunk(features: np.ndarray, positive: np.ndarray, bins: int) -> np.ndarray:
    low = features.min(axis=0)
    span = features.max(axis=0) - low
    scaled = (features - low) / np.where(span == 0, 1, span) * bins
    cells = np.minimum(scaled.astype(np.int64), bins - 1) + np.arange(features.shape[1]) * bins
    size = features.shape[1] * bins
    counts = np.stack([np.bincount(cells[mask].ravel(), minlength=size) for mask in (~positive, positive)])
    joint = counts.reshape(2, -1, bins) / len(features)
    independent = joint.sum(axis=0) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log(ratio)).sum(axis=(0, 2))


def _checked(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not np.isfinite(features).all():
        raise InputError("features with NaN or infinity", expected="finite activations", remedy="collect them again")
    if set(np.unique(labels)) != {0, 1}:
        raise InputError(f"labels {np.unique(labels).tolist()}", expected="both 0 and 1", remedy="add labelled rows")
    wide = features if features.dtype == np.float64 else features.astype(np.float32, copy=False)
    return wide, np.asarray(labels) == 1
