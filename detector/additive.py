"""Shape functions of an additive model: term values in, contributions (log-odds) out.

A shape is piecewise linear over the intervals its cuts make. Explainable boosting machines give steps (slope 0 in every
interval); shipped heads are continuous. All terms are packed into padded arrays, so one call evaluates them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.errors import ArtifactError


@dataclass(frozen=True)
class Shapes:
    """One shape function per term: `f(x) = values[b] + slopes[b] * (x - left[b])`, `b` = number of cuts <= x.

    cuts: `[terms, K]`, strictly ascending, padded with +inf. `left[b]` is `cuts[b - 1]`, and 0 for b = 0.
    values, slopes: `[terms, K + 1]`, one per interval; what stands in padding is never read.
    All three are kept as float64: an EBM's cuts do not survive float32. Raises ArtifactError on anything else.
    """

    cuts: Tensor
    values: Tensor
    slopes: Tensor
    # values - slopes * left, so that a call gathers two arrays instead of three.
    _offsets: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("cuts", "values", "slopes"):
            object.__setattr__(self, name, getattr(self, name).double().contiguous())
        _check(self.cuts, self.values, self.slopes)
        left = torch.nn.functional.pad(torch.where(self.cuts.isfinite(), self.cuts, 0.0), (1, 0))
        object.__setattr__(self, "_offsets", self.values - self.slopes * left)

    @classmethod
    def steps(cls, cuts: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Shapes:
        """Step functions (an EBM's tables). Per term: cuts `[k]`, k may be 0, and values `[k + 1]`, by interval."""
        _check_lengths(cuts, values, extra=1)
        slopes = [np.zeros(len(v)) for v in values]
        return cls._packed(cuts, values, slopes)

    @classmethod
    def piecewise_linear(cls, knots: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> Shapes:
        """Continuous shapes. Per term: knots `[k]`, k >= 1, and values `[k]` there; constant beyond the outer knots."""
        _check_lengths(knots, values, extra=0)
        knots, values = [np.asarray(k, float) for k in knots], [np.asarray(v, float) for v in values]
        slopes = [np.pad(np.diff(v) / np.diff(k), 1) for k, v in zip(knots, values, strict=True)]
        return cls._packed(knots, [np.insert(v, 0, v[0]) for v in values], slopes)

    @classmethod
    def _packed(cls, cuts: Sequence[Any], values: Sequence[Any], slopes: Sequence[Any]) -> Shapes:
        width = max([1, *(len(c) for c in cuts)])
        return cls(_pad(cuts, width, np.inf), _pad(values, width + 1, 0.0), _pad(slopes, width + 1, 0.0))

    @property
    def terms(self) -> int:
        return self.cuts.shape[0]

    def __call__(self, x: Float[Tensor, "*rows terms"]) -> Float[Tensor, "*rows terms"]:
        """Contributions, float64, in the shape of `x`. Where `x` is not finite the contribution is NaN."""
        # searchsorted wants one row of queries per row of cuts.
        columns = x.reshape(-1, self.terms).double().T.contiguous()
        bins = torch.searchsorted(self.cuts, columns, right=True)
        out = torch.addcmul(self._offsets.gather(1, bins), self.slopes.gather(1, bins), columns)
        return out.T.reshape(x.shape)

    def scaled(self, factor: float) -> Shapes:
        """The same shapes times `factor`: how calibration's scale is folded into the model."""
        return Shapes(self.cuts, self.values * factor, self.slopes * factor)

    def to(self, device: torch.device | str) -> Shapes:
        """The same shapes on another device."""
        return Shapes(self.cuts.to(device), self.values.to(device), self.slopes.to(device))


def _pad(rows: Sequence[Any], width: int, fill: float) -> Tensor:
    packed = np.full((len(rows), width), fill)
    for i, row in enumerate(rows):
        packed[i, : len(row)] = row
    return torch.from_numpy(packed)


def _check_lengths(cuts: Sequence[Any], values: Sequence[Any], *, extra: int) -> None:
    if len(cuts) != len(values):
        raise ArtifactError(f"{len(cuts)} terms with cuts, {len(values)} with values", expected="the same in both")
    for i, (c, v) in enumerate(zip(cuts, values, strict=True)):
        if len(v) != len(c) + extra or len(v) == 0:
            raise ArtifactError(
                f"term {i} has {len(c)} cuts and {len(v)} values", expected=f"cuts + {extra} values, at least one"
            )


def _check(cuts: Tensor, values: Tensor, slopes: Tensor) -> None:
    if cuts.ndim != 2 or values.shape != (cuts.shape[0], cuts.shape[1] + 1) or slopes.shape != values.shape:
        raise ArtifactError(
            f"cuts {list(cuts.shape)}, values {list(values.shape)}, slopes {list(slopes.shape)}",
            expected="cuts [terms, K], values and slopes [terms, K + 1]",
            remedy="write the artifact again with the version that reads it",
        )
    # Padding is +inf after +inf; every other pair must rise. NaN fails both.
    rises = (cuts[:, 1:] > cuts[:, :-1]) | ((cuts[:, 1:] == torch.inf) & (cuts[:, :-1] == torch.inf))
    faults: list[tuple[str, Callable[[], bool]]] = [
        ("cuts that do not ascend", lambda: not bool(rises.all())),
        ("cuts that are NaN or -inf", lambda: bool((cuts.isnan() | (cuts == -torch.inf)).any())),
        ("values or slopes that are not finite", lambda: not bool((values.isfinite() & slopes.isfinite()).all())),
    ]
    for fault, found in faults:
        if found():
            raise ArtifactError(
                f"shape functions with {fault}",
                expected="ascending cuts padded with +inf, finite values and slopes",
                remedy="fit or download the artifact again",
            )
