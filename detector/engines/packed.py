"""Many sequences in one forward pass without padding, each behind a prefix whose keys and values are known.

The tokens of all sequences stand in one row `[1, tokens]`, so everything but attention runs as over one text. Attention
is looked after here: a token sees its own sequence so far, and that sequence's prefix. Sequences that share a prefix
attend to it together, each to itself, and the two halves are joined by their log-sum-exp, which is exact (as in
FlashAttention, Dao et al. 2022, arXiv 2205.14135, and Hydragen, Juravsky et al. 2024, arXiv 2402.05099).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from groundwire.capture import PassEnds

NAME = "groundwire_packed"  # under which transformers finds `attention`
OTHER_KINDS = ("sliding_window", "softcap", "s_aux")
WASTE = 1.5  # sequences attend to themselves in one call while padding makes it at most this much larger

Layer = tuple[Float[Tensor, "1 kv_heads tokens d"], Float[Tensor, "1 kv_heads tokens d"]]


@dataclass(frozen=True)
class Prefix:
    """Token ids and their keys and values, by layer up to the last that is needed."""

    ids: tuple[int, ...]
    layers: Sequence[Layer]

    def __len__(self) -> int:
        return len(self.ids)

    def first(self, length: int) -> Prefix | None:
        """Its first tokens as a prefix of their own; None for none."""
        if not length:
            return None
        return Prefix(self.ids[:length], [(keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers])


@dataclass
class Pack:
    """One pass. sequences: token ids, and the prefix before them; those that share one (the object) stand together.

    keep: store keys and values up to layer `depth` and end the pass there: `kept` then holds each sequence's own, with
    its prefix, as a prefix for others.
    """

    sequences: Sequence[tuple[Sequence[int], Prefix | None]]
    keep: bool = False
    depth: int = -1
    _stored: list[list[Layer]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ends = torch.tensor([len(ids) for ids, _ in self.sequences]).cumsum(0).tolist()
        self.bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        runs = [list(run) for _, run in groupby(range(len(self.sequences)), lambda i: id(self.sequences[i][1]))]
        # Sequences of a run share a prefix: first and last token of the run, and the prefix.
        self.runs = [(self.bounds[run[0]][0], self.bounds[run[-1]][1], self.sequences[run[0]][1]) for run in runs]
        self.blocks = list(_blocks(self.bounds))
        self._stored = [[] for _ in self.sequences]

    @property
    def kept(self) -> list[Prefix]:
        """See `keep`."""
        found = []
        for (ids, prefix), layers in zip(self.sequences, self._stored, strict=True):
            found.append(Prefix((*(prefix.ids if prefix else ()), *ids), layers))
        return found

    def inputs(self, device: torch.device) -> dict[str, Any]:
        """What the model is called with."""
        ids = [i for sequence, _ in self.sequences for i in sequence]
        starts = [len(prefix) if prefix else 0 for _, prefix in self.sequences]
        positions = [torch.arange(n, n + len(s)) for n, (s, _) in zip(starts, self.sequences, strict=True)]
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.cat(positions)[None].to(device),
            "use_cache": False,
            "pack": self,
        }

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep what a layer made of the sequences. Raises PassEnds at layer `depth`."""
        for stored, (start, end), (_, prefix) in zip(self._stored, self.bounds, self.sequences, strict=True):
            parts = [(new[:, :, start:end], old) for new, old in zip((keys, values), _at(prefix, layer), strict=True)]
            own, other = (new.clone() if old is None else torch.cat([old, new], 2) for new, old in parts)
            stored.append((own, other))
        if layer >= self.depth:
            raise PassEnds


@contextmanager
def packing(model: Any) -> Iterator[None]:
    """For the length of the context the model's attention is `attention`; passes need a `pack`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
) -> tuple[Float[Tensor, "1 tokens heads d"], None]:
    """Attention of a packed pass, in the form transformers calls it: query `[1, heads, tokens, d]`, key and value
    `[1, kv_heads, tokens, d]`. Raises NotImplementedError on what changes which tokens are seen, and how much."""
    if other := [name for name in OTHER_KINDS if options.get(name) is not None]:
        raise NotImplementedError(f"attention with {', '.join(other)}")
    pack: Pack = options["pack"]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    if pack.keep:
        pack.store(module.layer_idx, key, value)
    attend = _halves if query.device.type == "cpu" else _wholes
    return attend(pack, module.layer_idx, query, key, value, scale).transpose(1, 2).contiguous(), None


def _halves(pack: Pack, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention to itself and to the prefix, joined. CPU: its kernel gives the log-sum-exp."""
    out, log_sum = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    for block in pack.blocks:
        own, own_sum = _flash(block.take(query), block.take(key), block.take(value), True, scale)
        block.put(out, own)
        block.put(log_sum, own_sum)
    for start, end, prefix in pack.runs:
        if prefix is None:
            continue
        far, far_sum = _flash(query[:, :, start:end], *prefix.layers[layer], False, scale)
        weight = torch.sigmoid(far_sum - log_sum[:, :, start:end])[..., None].to(query.dtype)
        out[:, :, start:end].lerp_(far, weight.expand_as(far))
    return out


def _wholes(pack: Pack, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of each sequence to prefix and itself at once: what every device can do."""
    groups, out = query.shape[1] // key.shape[1], torch.empty_like(query)
    for (start, end), (_, prefix) in zip(pack.bounds, pack.sequences, strict=True):
        parts = zip((key, value), _at(prefix, layer), strict=True)
        keys, values = (
            new[:, :, start:end] if old is None else torch.cat([old, new[:, :, start:end]], 2) for new, old in parts
        )
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        bias = causal_lower_right(end - start, keys.shape[2])
        out[:, :, start:end] = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:end], keys, values, attn_mask=bias, scale=scale
        )
    return out


@dataclass(frozen=True)
class _Block:
    """Sequences of about the same length that attend to themselves in one call.

    start, end: their tokens. count, width: sequences, and tokens of the longest. index: `[count * width]` token by
    place where they are not of one length; places beyond a sequence's end hold some other token, which no token before
    them sees. places: `[end - start]` place by token.
    """

    start: int
    end: int
    count: int
    width: int
    index: Int[Tensor, " places"] | None
    places: Int[Tensor, " tokens"] | None

    def take(self, x: Tensor) -> Float[Tensor, "count heads width d"]:
        """`[1, heads, tokens, d]` by sequence."""
        own = x[0, :, self.start : self.end]
        if self.index is not None:
            own = own[:, self.index]
        return own.unflatten(1, (self.count, self.width)).transpose(0, 1)

    def put(self, out: Tensor, found: Float[Tensor, "count heads width *d"]) -> None:
        """The reverse of `take`, into `out`."""
        rows = found.transpose(0, 1).flatten(1, 2)
        out[0, :, self.start : self.end] = rows if self.places is None else rows[:, self.places]


def _blocks(bounds: Sequence[tuple[int, int]]) -> Iterator[_Block]:
    first = 0
    while first < len(bounds):
        last, width = first, 0
        while last < len(bounds):
            longest = max(width, bounds[last][1] - bounds[last][0])
            if longest * (last + 1 - first) > WASTE * (bounds[last][1] - bounds[first][0]):
                break
            last, width = last + 1, longest
        yield _block(bounds[first:last], width)
        first = last


def _block(bounds: Sequence[tuple[int, int]], width: int) -> _Block:
    start, end = bounds[0][0], bounds[-1][1]
    if width * len(bounds) == end - start:
        return _Block(start, end, len(bounds), width, None, None)
    column = torch.arange(width)
    starts = torch.tensor([first - start for first, _ in bounds])[:, None]
    lengths = torch.tensor([last - first for first, last in bounds])[:, None]
    index = (starts + column.clamp_max(lengths - 1)).flatten()
    places = (column + width * torch.arange(len(bounds))[:, None])[column < lengths]
    return _Block(start, end, len(bounds), width, index, places)


def _flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp `[batch, heads, tokens]`, float32; heads may share keys and values."""
    kernel: Callable[..., tuple[Tensor, Tensor]] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, 0.0, causal, scale=scale)


def _at(prefix: Prefix | None, layer: int) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if prefix is None else prefix.layers[layer]
