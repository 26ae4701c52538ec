"""How far an answer's activations lie from those the detector was trained on. Where it is far, the score may mislead.

The distance is Mahalanobis' of the answer's mean features to their mean over the training answers, within the leading
subspace of those, as Lee et al. 2018 ("A simple unified framework for detecting out-of-distribution samples and
adversarial attacks", arXiv 1807.03888, eq. 2) with a single class and averaged over dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.errors import ArtifactError


@dataclass(frozen=True)
class Unlike:
    """The training answers' mean features, what whitens them, and how far the answers lay themselves.

    mean: `[terms]`. projection: `[k, terms]`: leading principal axes, each over the standard deviation along it.
    quantiles: `[n]` ascending distances of training answers at even steps from the 0 to the 1 quantile (101 of them).
    All are kept as float32. flag_above: quantile above which an answer is flagged.
    Raises ArtifactError where shapes disagree, numbers are not finite or quantiles do not ascend.
    """

    mean: Tensor
    projection: Tensor
    quantiles: Tensor
    flag_above: float = 0.99

    def __post_init__(self) -> None:
        for name in ("mean", "projection", "quantiles"):
            object.__setattr__(self, name, getattr(self, name).float().contiguous())
        shapes = [list(t.shape) for t in (self.mean, self.projection, self.quantiles)]
        fits = [len(shape) for shape in shapes] == [1, 2, 1] and shapes[1][1] == shapes[0][0]
        if not (fits and shapes[1][0] >= 1 and shapes[2][0] >= 2):
            raise _broken("mean {}, projection {}, quantiles {}".format(*shapes), "[terms], [k, terms], [n]")
        if not all(bool(t.isfinite().all()) for t in (self.mean, self.projection, self.quantiles)):
            raise _broken("mean, projection or quantiles that are not finite", "finite numbers")
        if bool((self.quantiles.diff() < 0).any()) or not 0 <= self.flag_above <= 1:
            raise _broken(
                f"quantiles that may not ascend, flagged above {self.flag_above}", "ascending ones, a flag in [0, 1]"
            )

    @property
    def terms(self) -> int:
        return len(self.mean)

    def distance(self, mean_features: Float[Tensor, " terms"]) -> float:
        """Distance of an answer with these mean features: near 1 for one like the training answers."""
        whitened = self.projection.double() @ (mean_features.double() - self.mean.double())
        return float(whitened.norm()) / len(self.projection) ** 0.5

    def measure(self, mean_features: Float[Tensor, " terms"]) -> dict[str, Any]:
        """`distance`; `quantile`: the share of training answers that lay nearer; `flag`: whether that is too far."""
        distance = self.distance(mean_features)
        steps = torch.linspace(0, 1, len(self.quantiles)).double().numpy()
        quantile = float(np.interp(distance, self.quantiles.double().numpy(), steps))
        return {"distance": distance, "quantile": quantile, "flag": quantile > self.flag_above}


def _broken(given: str, expected: str) -> ArtifactError:
    return ArtifactError(
        f"distances to the training data with {given}",
        expected=expected,
        remedy="restore the artifact as it was written",
    )
