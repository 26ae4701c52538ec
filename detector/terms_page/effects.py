"""What each term of a detector can add to an answer's log-odds, and over which values of the term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch

from groundwire.additive import Shapes
from groundwire.artifact import Artifact
from groundwire.binding import BINDING_TERMS
from groundwire.types import Term

Direction = Literal["raises", "lowers", "mixed", "flat"]
SHARES = ("best_window_soft", "absent_share", *BINDING_TERMS)  # terms of the texts that are no ln(1 + number)
BEYOND = 0.12  # how much of the range between the outer knots is shown outside them
MOSTLY = 0.5  # of a shape's height, by which its right end must differ from its left for a direction
FLAT = 1e-9  # of the largest contribution: a smaller change is rounding


@dataclass(frozen=True)
class Effect:
    """One term and its shape, as the response's log-odds see it.

    knots: where the shape bends or jumps. points: (value of the term, contribution), ascending, on straight lines
    between them. bounded: whether the contribution stays as it is beyond the points. axis: what the values are.
    counted: whether they are `ln(1 + number)`. mean: over the training answers, None where the detector does not know.
    """

    term: Term
    knots: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    bounded: bool
    axis: str
    counted: bool = False
    mean: float | None = None

    @property
    def low(self) -> float:
        """The least it adds."""
        return min(y for _, y in self.points)

    @property
    def high(self) -> float:
        """The most it adds."""
        return max(y for _, y in self.points)

    @property
    def largest(self) -> float:
        """The most it moves the log-odds, either way."""
        return max(abs(self.low), abs(self.high))

    @property
    def direction(self) -> Direction:
        """What a higher value of the term does to the score, on the whole where it is not `steady`."""
        whole, net = self.high - self.low, self.points[-1][1] - self.points[0][1]
        if whole <= FLAT * self.largest:
            return "flat"
        if abs(net) < MOSTLY * whole:
            return "mixed"
        return "raises" if net > 0 else "lowers"

    @property
    def steady(self) -> bool:
        """Whether the contribution never turns back; an EBM's table seldom is."""
        steps = [after - before for (_, before), (_, after) in pairwise(self.points)]
        return min(steps) >= -FLAT * self.largest or max(steps) <= FLAT * self.largest


def token_weight(artifact: Artifact) -> float:
    """How often a contribution counts in the response's log-odds where all its tokens have the same one."""
    pooling = artifact.scorer.pooling
    return 1.0 if pooling.kind == "max" else pooling.window_weight + pooling.mean_weight


def effects(artifact: Artifact) -> list[Effect]:
    """All terms, those that can move an answer most first."""
    scorer = artifact.scorer
    encoder = scorer.encoder
    axis = "pre-activation" if encoder.threshold is None and not encoder.rectify else "activation"
    if scorer.pooling.kind == "max":
        axis = f"highest {axis} in the answer"
    curves = _curves(scorer.shapes, token_weight(artifact), floor=0.0 if encoder.rectify else -math.inf)
    means = artifact.unlike.mean.tolist() if artifact.unlike else [None] * scorer.terms
    found = [
        Effect(term, *curve, axis=axis if term.kind == "latent" else "place along the direction", mean=mean)
        for term, curve, mean in zip(artifact.terms[: scorer.terms], curves, means, strict=True)
    ]
    at = scorer.terms
    for head in (artifact.binding, artifact.grounding):
        if head is None:
            continue
        curves = _curves(head.shapes, 1.0, floor=0.0)
        for term, name, curve in zip(artifact.terms[at : at + len(curves)], head.names, curves, strict=True):
            counted = name not in SHARES
            axis = "how many, spaced as ln(1 + n)" if counted else "how much"
            found.append(Effect(term, *curve, axis=axis, counted=counted))
        at += len(curves)
    return sorted(found, key=lambda effect: -effect.largest)


class _Curve(NamedTuple):
    """Fields of an `Effect` that a shape has by itself."""

    knots: tuple[float, ...]
    points: tuple[tuple[float, float], ...]
    bounded: bool


def _curves(shapes: Shapes, factor: float, *, floor: float) -> list[_Curve]:
    """The shapes times `factor`; no term is ever below `floor`."""
    knots = [[cut for cut in cuts if floor <= cut < math.inf] for cuts in shapes.cuts.tolist()]
    places = [_places(of_one, floor) for of_one in knots]
    longest = max(map(len, places), default=0)
    # The last place is repeated where a shape has fewer, so that one call gives all.
    padded = torch.tensor([xs + xs[-1:] * (longest - len(xs)) for xs in places], dtype=torch.float64)
    values = (shapes(padded.reshape(shapes.terms, longest).T).T * factor).tolist()
    last = shapes.cuts.isfinite().sum(1, keepdim=True)
    slopes = zip(shapes.slopes[:, 0].tolist(), shapes.slopes.gather(1, last)[:, 0].tolist(), strict=True)
    return [
        _Curve(tuple(cuts), tuple(zip(xs, ys, strict=False)), bounded=after == 0 and (floor == 0 or before == 0))
        for cuts, xs, ys, (before, after) in zip(knots, places, values, slopes, strict=True)
    ]


def _places(knots: Sequence[float], floor: float) -> list[float]:
    """Where to look at a shape: both sides of every knot, and the ends of what is shown."""
    first, last = (knots[0], knots[-1]) if knots else (0.0, 0.0)
    least = first if floor == -math.inf else floor
    beyond = (last - least) * BEYOND or max(1.0, abs(last))
    start, end = max(least - beyond, floor), last + beyond
    inside = [x for knot in knots if knot > start for x in (math.nextafter(knot, -math.inf), knot)]
    return [start, *inside, end]
