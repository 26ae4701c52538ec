"""The one scoring path: features of response tokens are folded, row by row, into one small state per response.

`fold` takes the rows of many responses at once (a decoding batch, a replay, a vLLM step) and `finish` hands back what a
verdict needs. Folding the same rows in any chunks gives exactly the same state; the state is plain tensors.

Two poolings, both additive (contributions and intercept sum to the logit):

- `max` (RAGLens, arXiv 2512.08892): every latent is pooled to its maximum over the response, then its shape is applied.
  A token answers for the contributions of the latents that peak in it.
- `window`: shapes are applied per token and sum to a token logit; the response logit is a fixed combination of the mean
  over the best full window of tokens (all tokens where there are fewer) and the mean over all.

A scorer that knows sentence ends (`end_shapes`) reads a whole response by its worst sentence (`by_sentence`): what the
features say at the sentence's last token, and in its best window. It needs the text, so a running logit has no part in
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError, CaptureError
from groundwire.sae import SparseEncoder
from groundwire.types import Readout

_PIECE = 128  # rows folded at once: what is computed for them fits into a core's cache


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


@dataclass(frozen=True)
class Sentencewise:
    """Terms of the texts by sentence: `[sentences, terms]` log-odds, float64, and the row each points at, or -1."""

    contributions: Float[Tensor, "sentences terms"]
    rows: Int[Tensor, "sentences terms"]


@dataclass
class State:
    """What is known of each response so far, one slot (first axis) each. All sums are float64."""

    count: Int[Tensor, " slots"]
    finite: Tensor  # [slots] bool
    feature_total: Float[Tensor, "slots terms"]
    # kind "max" only, where pooled = terms; 0 otherwise
    maximum: Float[Tensor, "slots pooled"]
    peak: Int[Tensor, "slots pooled"]
    # kind "window" only, where windowed = terms; 0 otherwise
    recent: Float[Tensor, "slots window windowed"]  # contributions of the latest tokens, the newest last
    recent_sums: Float[Tensor, "slots window"]  # their sums over terms
    total: Float[Tensor, "slots windowed"]
    best: Float[Tensor, "slots window windowed"]  # contributions in the best full window so far
    best_end: Int[Tensor, " slots"]  # its last row
    best_logit: Float[Tensor, " slots"]
    token_sums: list[list[Tensor]]  # per slot: sums of contributions of its tokens, in order

    def extended(self, other: State) -> State:
        """This state's slots and, behind them, those of `other`."""
        joined: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            joined[name] = mine + theirs if isinstance(mine, list) else torch.cat([mine, theirs])
        return State(**joined)

    def at(self, slots: Sequence[int], device: torch.device | str = "cpu") -> State:
        """A copy of some slots on `device`, in that order."""
        chosen: dict[str, Any] = {}
        index = torch.tensor(list(slots), dtype=torch.long, device=self.count.device)
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, list):
                chosen[name] = [[torch.cat(value[slot]).to(device)] if value[slot] else [] for slot in slots]
            else:
                chosen[name] = value[index].to(device)
        return State(**chosen)

    def reset(self, slot: int) -> None:
        """Make `slot` as good as new, for the next response."""
        self.count[slot], self.finite[slot], self.feature_total[slot] = 0, True, 0.0
        self.maximum[slot], self.peak[slot] = -torch.inf, -1
        self.recent[slot], self.recent_sums[slot], self.total[slot] = 0.0, 0.0, 0.0
        self.best[slot], self.best_end[slot], self.best_logit[slot] = 0.0, -1, -torch.inf
        self.token_sums[slot] = []


@dataclass(frozen=True)
class _Piece:
    """Some rows, by the response they belong to.

    used: the slots that have rows here. inverse: `[rows]` place of a row's slot in `used`. order: `[rows]` how many
    rows of that slot stand before it. lengths: rows of each used slot.
    """

    used: Int[Tensor, " used"]
    inverse: Int[Tensor, " rows"]
    order: Int[Tensor, " rows"]
    lengths: Int[Tensor, " used"]

    @classmethod
    def of(cls, slots: Int[Tensor, " rows"]) -> _Piece:
        used, inverse = slots.unique(return_inverse=True)
        one_hot = inverse[:, None] == torch.arange(len(used), device=slots.device)
        order = one_hot.cumsum(0).gather(1, inverse[:, None])[:, 0] - 1
        return cls(used, inverse, order, one_hot.sum(0))

    def spread(self, rows: Tensor, before: Tensor) -> Tensor:
        """Each slot's `rows` `[rows, *k]` after what stood `before` `[used, b, *k]`: `[used, b + longest, *k]` float64,
        zeros after a slot's last."""
        width = before.shape[1]
        out = before.new_zeros(len(self.used), width + int(self.lengths.max()), *rows.shape[1:])
        out[:, :width] = before
        out[self.inverse, width + self.order] = rows.to(out.dtype)
        return out


@dataclass(frozen=True)
class Scorer:
    """Chosen latents (and residual directions), their shapes and how they are pooled: all that scoring needs.

    encoder: one row per term; a residual direction is a row like any other.
    intercept: log-odds of a response before any term. token_intercept, token_scale: turn the sum of a token's
    contributions into the log-odds that it lies in an unfaithful span; before that, sums are averaged over the tokens
    at most `token_smoothing` before and after it.
    end_shapes: shapes of the same features at the last token of a sentence; None where sentences are not read.

    Raises ArtifactError where `token_smoothing` is negative.
    """

    encoder: SparseEncoder
    shapes: Shapes
    intercept: float
    pooling: Pooling = Pooling()
    token_intercept: float = 0.0
    token_scale: float = 1.0
    token_smoothing: int = 0
    end_shapes: Shapes | None = None

    def __post_init__(self) -> None:
        if self.end_shapes is not None and self.pooling.kind != "window":
            raise ArtifactError(
                f"sentence ends with pooling {self.pooling.kind!r}",
                expected='pooling "window"',
                remedy="restore the artifact as it was written",
            )
        if self.token_smoothing < 0:
            raise ArtifactError(
                f"token smoothing over {self.token_smoothing} tokens on either side",
                expected="0 or more",
                remedy="restore the artifact as it was written",
            )

    @property
    def terms(self) -> int:
        return self.encoder.bias.shape[0]

    def to(self, device: torch.device | str) -> Scorer:
        """The same scorer on another device."""
        encoder, threshold = self.encoder, self.encoder.threshold
        moved = replace(
            encoder,
            weight=encoder.weight.to(device),
            bias=encoder.bias.to(device),
            threshold=None if threshold is None else threshold.to(device),
        )
        ends = None if self.end_shapes is None else self.end_shapes.to(device)
        return replace(self, encoder=moved, shapes=self.shapes.to(device), end_shapes=ends)

    def encode(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows terms"]:
        """Activations of the chosen latents, float32, whatever the rows' dtype."""
        return self.encoder(rows)

    def new_state(self, slots: int, device: torch.device | str = "cpu") -> State:
        """An empty state with room for `slots` responses."""
        window = self.pooling.window
        pooled, windowed = (self.terms, 0) if self.pooling.kind == "max" else (0, self.terms)
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        return State(
            count=torch.zeros(slots, dtype=torch.long, device=device),
            finite=torch.ones(slots, dtype=torch.bool, device=device),
            feature_total=zeros(slots, self.terms),
            maximum=torch.full((slots, pooled), -torch.inf, device=device),
            peak=torch.full((slots, pooled), -1, dtype=torch.long, device=device),
            recent=zeros(slots, window, windowed),
            recent_sums=zeros(slots, window),
            total=zeros(slots, windowed),
            best=zeros(slots, window, windowed),
            best_end=torch.full((slots,), -1, dtype=torch.long, device=device),
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
        if len(features) == 1 or (len(features) <= _PIECE and len(slots.unique()) == len(slots)):
            self._fold_step(state, features, slots)
            return state
        state.finite[slots[~features.isfinite().all(1)]] = False
        for part, numbers in zip(features.split(_PIECE), slots.split(_PIECE), strict=True):
            piece = _Piece.of(numbers)
            _add_rows(state.feature_total, part, piece)
            if self.pooling.kind == "max":
                _fold_maximum(state, part, piece)
            else:
                self._fold_window(state, part, piece)
            state.count[piece.used] += piece.lengths
        return state

    def _fold_step(self, state: State, features: Tensor, slots: Int[Tensor, " rows"]) -> None:
        """At most one row of each response, as a decoding step brings them: the same sums in the same order, sooner."""
        state.finite[slots] &= features.isfinite().all(1)
        state.feature_total[slots] += features
        if self.pooling.kind == "max":
            _fold_maximum(state, features, _Piece.of(slots))
        else:
            contributions, width = self.shapes(features).contiguous(), self.pooling.window
            sums = contributions.sum(1)
            state.total[slots] += contributions
            # The window moves on by one row; its sum is taken from the oldest row on, as over many rows.
            recent = torch.cat([state.recent[slots, 1:], contributions[:, None]], 1)
            recent_sums = torch.cat([state.recent_sums[slots, 1:], sums[:, None]], 1)
            window = recent_sums[:, 0]
            for k in range(1, width):
                window = window + recent_sums[:, k]
            better = (state.count[slots] >= width - 1) & (window > state.best_logit[slots])
            if bool(better.any()):
                chosen = slots[better]
                state.best_logit[chosen], state.best_end[chosen] = window[better], state.count[chosen]
                state.best[chosen] = recent[better]
            state.recent[slots], state.recent_sums[slots] = recent, recent_sums
            for i, slot in enumerate(slots.tolist()):
                state.token_sums[slot].append(sums[i : i + 1])
        state.count[slots] += 1

    def _fold_window(self, state: State, features: Tensor, piece: _Piece) -> None:
        # Contiguous, because a sum adds in another order over a transposed view, which `shapes` gives for many rows.
        contributions = self.shapes(features).contiguous()
        sums, used, width = contributions.sum(1), piece.used, self.pooling.window
        _add_rows(state.total, contributions, piece)
        logits = piece.spread(sums, state.recent_sums[used])
        rows = piece.spread(contributions, state.recent[used])
        # Windows by their last row. One shifted addition at a time: the same order, whatever the chunks were.
        longest = logits.shape[1] - width
        windows = logits[:, 1 : longest + 1]
        for k in range(1, width):
            windows = windows + logits[:, k + 1 : k + 1 + longest]
        step = torch.arange(longest, device=features.device)
        there = (step < piece.lengths[:, None]) & (step + state.count[used, None] >= width - 1)
        highest, at = torch.where(there, windows, -torch.inf).max(1)  # the first of equals
        better = highest > state.best_logit[used]
        chosen, at = used[better], at[better]
        state.best_logit[chosen] = highest[better]
        state.best_end[chosen] = state.count[chosen] + at
        state.best[chosen] = _windows(rows[better], at + 1, width)
        state.recent[used] = _windows(rows, piece.lengths, width)
        state.recent_sums[used] = _windows(logits, piece.lengths, width)
        for slot, row, length in zip(used.tolist(), logits, piece.lengths.tolist(), strict=True):
            state.token_sums[slot].append(row[width : width + length].clone())

    def contributions(self, state: State, slot: int) -> Float[Tensor, " terms"]:
        """Log-odds each term adds to the response so far, float64; zeros before the first token."""
        count = int(state.count[slot])
        if count == 0:
            return torch.zeros(self.terms, dtype=torch.float64)
        if self.pooling.kind == "max":
            return self.shapes(state.maximum[slot][None])[0].double()
        mean = state.total[slot] / count
        window = state.best[slot].mean(0) if count >= self.pooling.window else mean
        return self.pooling.window_weight * window + self.pooling.mean_weight * mean

    def logit(self, state: State, slot: int) -> float:
        """The running response logit of a slot."""
        return self.intercept + float(self.contributions(state, slot).sum())

    def logits(self, state: State, slots: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The running response logits of many slots, on their device: `logit` of each, but for rounding."""
        if self.pooling.kind == "max":
            seen = state.count[slots, None] > 0
            values = torch.where(seen, self.shapes(torch.where(seen, state.maximum[slots], 0.0)), 0.0).sum(1)
            return self.intercept + values
        count = state.count[slots]
        mean = state.total[slots].sum(1) / count.clamp_min(1)
        window = torch.where(count >= self.pooling.window, state.best_logit[slots] / self.pooling.window, mean)
        return self.intercept + self.pooling.window_weight * window + self.pooling.mean_weight * mean

    def finish(self, state: State, slot: int) -> Readout:
        """Everything a verdict needs of one response; the slot can be reset afterwards."""
        rows = int(state.count[slot])
        contributions = self.contributions(state, slot).cpu()
        peaks = self._peaks(state, slot, contributions)
        if self.pooling.kind == "max":
            sums = torch.zeros(rows, dtype=torch.float64)
            if rows:
                sums.index_add_(0, peaks.clamp_min(0), contributions)
        else:
            sums = torch.cat([part.cpu() for part in state.token_sums[slot]]) if rows else torch.zeros(0).double()
        return Readout(
            rows=rows,
            logit=self.intercept + float(contributions.sum()),
            contributions=contributions,
            peaks=peaks,
            token_logits=self.token_intercept + self.token_scale * _smoothed(sums, self.token_smoothing),
            mean_features=state.feature_total[slot].cpu() / max(rows, 1),
            finite=bool(state.finite[slot]),
        )

    def by_sentence(self, readout: Readout, ends: Sequence[int], more: Sentencewise | None = None) -> Readout:
        """The readout of a whole response by its worst sentence, the first of equals.

        A sentence's log-odds are what the end shapes give at its last token, and the best full window of tokens within
        it (all of them where they are fewer), weighted as the pooling says, and those of `more`.
        ends: the last row of each sentence, ascending, at least one. more: terms of the texts, by sentence; they stand
        behind the encoder's in what is returned. Raises CaptureError where the readout holds no
        features, or not those rows.
        """
        features = readout.features
        if self.end_shapes is None or features is None or not ends or ends[-1] >= len(features):
            raise CaptureError(
                f"sentence ends {list(ends)[-3:]} and features {None if features is None else list(features.shape)}",
                expected="a scorer with end shapes, features of every row, and ends among these",
                remedy="let the engine's replay keep features",
            )
        features = features.to(self.encoder.weight.device)
        by_token, at_end = self.shapes(features).cpu(), self.end_shapes(features[list(ends)]).cpu()
        sums, weight = by_token.sum(1), self.pooling.window_weight
        windows = [
            self._best(sums, start, end + 1) for start, end in zip([0, *(e + 1 for e in ends)], ends, strict=False)
        ]
        best = torch.stack([by_token[low:high].mean(0) for low, high in windows])
        sentences = (at_end + weight * best).sum(1)
        if more is not None:
            sentences = sentences + more.contributions.sum(1)
        worst = int(sentences.argmax())
        low, high = windows[worst]
        ended, spoken = at_end[worst], weight * best[worst]
        contributions = ended + spoken
        peaks = low + (by_token[low:high] * contributions.sign()).argmax(0)
        peaks = torch.where(ended.abs() > spoken.abs(), ends[worst], peaks)
        if more is not None:
            contributions = torch.cat([contributions, more.contributions[worst]])
            peaks = torch.cat([peaks, more.rows[worst]])
        return replace(
            readout,
            logit=self.intercept + float(contributions.sum()),
            contributions=contributions,
            peaks=peaks,
            sentences=self.intercept + sentences,
        )

    def _best(self, sums: Float[Tensor, " n"], start: int, end: int) -> tuple[int, int]:
        """First and last row (exclusive) of the best full window within a sentence; all of it where it is shorter."""
        width = self.pooling.window
        if end - start <= width:
            return start, end
        first = start + int(sums[start:end].unfold(0, width, 1).sum(1).argmax())
        return first, first + width

    def _peaks(self, state: State, slot: int, contributions: Tensor) -> Int[Tensor, " terms"]:
        count, width = int(state.count[slot]), self.pooling.window
        if self.pooling.kind == "max":
            return state.peak[slot].cpu()
        if count == 0:
            return torch.full((self.terms,), -1)
        if count >= width:
            rows, first = state.best[slot], int(state.best_end[slot]) - width + 1
        else:
            rows, first = state.recent[slot, width - count :], 0
        return first + (rows.cpu() * contributions.sign()).argmax(0)


def _add_rows(total: Tensor, rows: Tensor, piece: _Piece) -> None:
    """Add each slot's rows to its total one after the other, so that the order of additions is that of the rows."""
    sums = total[piece.used]
    for row in piece.spread(rows, total.new_zeros(len(sums), 0, rows.shape[1])).unbind(1):
        sums += row
    total[piece.used] = sums


def _fold_maximum(state: State, features: Tensor, piece: _Piece) -> None:
    index = piece.inverse[:, None].expand_as(features)
    before = state.maximum[piece.used]
    after = before.scatter_reduce(0, index, features, "amax")
    # A peak is the first row that reached the maximum, however the rows were cut into chunks.
    reached = (features == after[piece.inverse]) & (features > before[piece.inverse])
    far = torch.iinfo(torch.long).max
    rows = state.count[piece.used][piece.inverse] + piece.order
    first = torch.full_like(state.peak[piece.used], far)
    first = first.scatter_reduce(0, index, torch.where(reached, rows[:, None], far), "amin")
    state.peak[piece.used] = torch.where(first < far, first, state.peak[piece.used])
    state.maximum[piece.used] = after


def _windows(rows: Float[Tensor, "slots n *k"], first: Int[Tensor, " slots"], width: int) -> Tensor:
    """`width` rows of each slot, from its own `first` on."""
    index = first[:, None] + torch.arange(width, device=rows.device)
    return rows[torch.arange(len(rows), device=rows.device)[:, None], index]


def _smoothed(values: Float[Tensor, " n"], half: int) -> Float[Tensor, " n"]:
    """Centred means over `2 * half + 1` values, over fewer at the ends."""
    if half == 0 or not len(values):
        return values
    padded = torch.nn.functional.pad(torch.stack([values, torch.ones_like(values)]), (half, half))
    sums, counts = padded.unfold(1, 2 * half + 1, 1).sum(2)
    return sums / counts
