"""The one scoring path: features of response tokens are folded, row by row, into one small state per response.

`fold` takes the rows of many responses at once (a decoding batch, a replay, a vLLM step) and `finish` hands back what a
verdict needs. Folding the same rows in any chunks gives exactly the same state; the state is plain tensors.

Two poolings, both additive (contributions and intercept sum to the logit):

- `max` (RAGLens, arXiv 2512.08892): every latent is pooled to its maximum over the response, then its shape is applied.
  A token answers for the contributions of the latents that peak in it.
- `window`: shapes are applied per token and sum to a token logit; the response logit is a fixed combination of the mean
  over the best full window of tokens (all tokens where there are fewer) and the mean over all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError, CaptureError
from groundwire.sae import SparseEncoder
from groundwire.types import Readout


@dataclass(frozen=True)
class Pooling:
    """How token rows become one response. The last three fields are for kind "window" only.

    Raises ArtifactError on another kind, which would count nothing, and on an empty window.
    """

    kind: Literal["max", "window"] = "max"
    window: int = 8
    window_weight: float = 1.0
    mean_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in ("max", "window") or self.window < 1:
            raise ArtifactError(
                f"pooling {self.kind!r} over a window of {self.window}",
                expected='kind "max" or "window", a window of at least one token',
                remedy="restore the artifact as it was written, or install the version that wrote it",
            )


@dataclass
class State:
    """What is known of each response so far, one slot (first axis) each. All sums are float64."""

    count: Int[Tensor, " slots"]
    finite: Tensor  # [slots] bool
    maximum: Float[Tensor, "slots terms"]
    peak: Int[Tensor, "slots terms"]
    # kind "window" only, where windowed = terms; 0 otherwise
    ring: Float[Tensor, "slots window windowed"]  # contributions of the latest tokens, token t at t % window
    total: Float[Tensor, "slots windowed"]
    best: Float[Tensor, "slots windowed"]  # sums over the best window so far
    best_logit: Float[Tensor, " slots"]
    token_sums: list[list[Tensor]]  # per slot: sums of contributions of its tokens, in order

    def reset(self, slot: int) -> None:
        """Make `slot` as good as new, for the next response."""
        self.count[slot], self.finite[slot] = 0, True
        self.maximum[slot], self.peak[slot] = -torch.inf, -1
        self.ring[slot], self.total[slot], self.best[slot] = 0.0, 0.0, 0.0
        self.best_logit[slot] = -torch.inf
        self.token_sums[slot] = []

    def to(self, device: torch.device | str) -> State:
        """The same state on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "token_sums"}
        return State(**moved, token_sums=[[part.to(device) for part in parts] for parts in self.token_sums])


@dataclass(frozen=True)
class Scorer:
    """Chosen latents, their shapes and how they are pooled: all that scoring needs of an artifact.

    intercept: log-odds of a response before any term. token_intercept, token_scale: turn the sum of a token's
    contributions into the log-odds that it lies in an unfaithful span.
    """

    encoder: SparseEncoder
    shapes: Shapes
    intercept: float
    pooling: Pooling = Pooling()
    token_intercept: float = 0.0
    token_scale: float = 1.0

    @property
    def terms(self) -> int:
        return self.encoder.bias.shape[0]

    def encode(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows terms"]:
        """Activations of the chosen latents, float32, whatever the rows' dtype."""
        return self.encoder(rows)

    def new_state(self, slots: int, device: torch.device | str = "cpu") -> State:
        """An empty state with room for `slots` responses."""
        terms = self.terms
        windowed = terms if self.pooling.kind == "window" else 0
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        return State(
            count=torch.zeros(slots, dtype=torch.long, device=device),
            finite=torch.ones(slots, dtype=torch.bool, device=device),
            maximum=torch.full((slots, terms), -torch.inf, device=device),
            peak=torch.full((slots, terms), -1, dtype=torch.long, device=device),
            ring=zeros(slots, self.pooling.window, windowed),
            total=zeros(slots, windowed),
            best=zeros(slots, windowed),
            best_logit=zeros(slots) - torch.inf,
            token_sums=[[] for _ in range(slots)],
        )

    def fold(self, state: State, features: Float[Tensor, "rows terms"], slots: Int[Tensor, " rows"]) -> State:
        """Add rows to the state, in place, and return it.

        slots: which response each row belongs to; rows of one response come in the order of its tokens, but responses
            may be mixed in any way. Raises CaptureError where the number of features is not the number of terms.
        """
        if features.shape[1] != self.terms:
            raise CaptureError(
                f"{features.shape[1]} features a row",
                expected=f"{self.terms}, one for each term",
                remedy="fold what this scorer's own `encode` gives",
            )
        if not len(features):
            return state
        used, inverse = slots.unique(return_inverse=True)
        order = _running_count(inverse, len(used))
        rows = state.count[used][inverse] + order
        state.finite[slots[~features.isfinite().all(1)]] = False
        self._fold_maximum(state, features, used, inverse, rows)
        if self.pooling.kind == "window":
            self._fold_window(state, features, used, inverse, order)
        state.count[used] += torch.bincount(inverse, minlength=len(used))
        return state

    def _fold_maximum(self, state: State, features: Tensor, used: Tensor, inverse: Tensor, rows: Tensor) -> None:
        before = state.maximum[used]
        after = before.scatter_reduce(0, inverse[:, None].expand_as(features), features, "amax")
        # A peak is the first row that reached the maximum, however the rows were cut into chunks.
        reached = (features == after[inverse]) & (features > before[inverse])
        far = torch.iinfo(torch.long).max
        candidates = torch.where(reached, rows[:, None], far)
        first = torch.full_like(state.peak[used], far)
        first = first.scatter_reduce(0, inverse[:, None].expand_as(candidates), candidates, "amin")
        state.peak[used] = torch.where(first < far, first, state.peak[used])
        state.maximum[used] = after

    def _fold_window(self, state: State, features: Tensor, used: Tensor, inverse: Tensor, order: Tensor) -> None:
        # Contiguous, because a sum adds in another order over a transposed view, which `shapes` gives for many rows.
        contributions = self.shapes(features).contiguous()
        sums = contributions.sum(1)
        width = self.pooling.window
        # One token of every response at a time: the additions happen in the same order for any chunks.
        for step in range(int(order.max()) + 1):
            at = (order == step).nonzero()[:, 0]
            slot = used[inverse[at]]
            position = state.count[slot] + step
            state.ring[slot, position % width] = contributions[at]
            state.total[slot] += contributions[at]
            window = state.ring[slot].sum(1)
            logit = window.sum(1)
            better = (position >= width - 1) & (logit > state.best_logit[slot])
            state.best[slot] = torch.where(better[:, None], window, state.best[slot])
            state.best_logit[slot] = torch.where(better, logit, state.best_logit[slot])
        for i, slot_number in enumerate(used.tolist()):
            state.token_sums[slot_number].append(sums[inverse == i])

    def contributions(self, state: State, slot: int) -> Float[Tensor, " terms"]:
        """Log-odds each term adds to the response so far, float64; zeros before the first token."""
        count = int(state.count[slot])
        if count == 0:
            return torch.zeros(self.terms, dtype=torch.float64)
        if self.pooling.kind == "max":
            return self.shapes(state.maximum[slot][None])[0].double()
        full = count >= self.pooling.window
        window = state.best[slot] / self.pooling.window if full else state.total[slot] / count
        return self.pooling.window_weight * window + self.pooling.mean_weight * state.total[slot] / count

    def logit(self, state: State, slot: int) -> float:
        """The running response logit of a slot."""
        return self.intercept + float(self.contributions(state, slot).sum())

    def finish(self, state: State, slot: int) -> Readout:
        """Everything a verdict needs of one response; the slot can be reset afterwards."""
        rows = int(state.count[slot])
        contributions = self.contributions(state, slot).cpu()
        peak = state.peak[slot].cpu()
        if self.pooling.kind == "max":
            sums = torch.zeros(rows, dtype=torch.float64)
            if rows:
                sums.index_add_(0, peak.clamp_min(0), contributions)
        else:
            sums = torch.cat([part.cpu() for part in state.token_sums[slot]]) if rows else torch.zeros(0).double()
        return Readout(
            rows=rows,
            logit=self.intercept + float(contributions.sum()),
            contributions=contributions,
            peaks=peak,
            token_logits=self.token_intercept + self.token_scale * sums,
            finite=bool(state.finite[slot]),
        )


def _running_count(groups: Int[Tensor, " rows"], number: int) -> Int[Tensor, " rows"]:
    """For each row, how many earlier rows belong to its group."""
    one_hot = groups[:, None] == torch.arange(number, device=groups.device)
    return one_hot.cumsum(0).gather(1, groups[:, None])[:, 0] - 1
