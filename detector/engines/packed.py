"""Many sequences in one forward pass without padding, each behind a prefix whose keys and values are known.

The tokens of all sequences stand in one row `[1, tokens]`, so everything but attention runs as over one text. Attention
is looked after here: a token sees its own sequence so far, and that sequence's prefix, or what of it the sequence has
in its focus. Sequences that share a prefix attend to it together, each to itself, and the two halves are joined by
their log-sum-exp, which is exact (as in FlashAttention, Dao et al. 2022, arXiv 2205.14135, and Hydragen, Juravsky et
al. 2024, arXiv 2402.05099).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from groundwire.capture import PassEnds
from groundwire.focus import Focus, Ranges, alike

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

    def seen(self, tokens: Int[Tensor, " seen"] | None, layer: int) -> Layer:
        """Keys and values of some of its tokens; None for all."""
        keys, values = self.layers[layer]
        return (keys, values) if tokens is None else (keys.index_select(2, tokens), values.index_select(2, tokens))


@dataclass
class Pack:
    """One pass. sequences: token ids, and the prefix before them; those that share one (the object) stand together.
    focus: what of its prefix each sequence attends to, by tokens; None, or None for a sequence, for all of it.

    A token stands in the pass once for all neighbours that begin alike up to it: `index` says where the tokens of each
    sequence are. keep: store keys and values up to layer `depth` and end the pass there: `kept` then holds each
    sequence's own, with its prefix, as a prefix for others.
    """

    sequences: Sequence[tuple[Sequence[int], Prefix | None]]
    device: torch.device
    keep: bool = False
    depth: int = -1
    focus: Sequence[Focus | None] | None = None
    index: list[Int[Tensor, " _"]] = field(init=False, default_factory=list)
    _stored: list[list[Layer]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._stored = [[] for _ in self.sequences]
        self.own = list[tuple[int, int]]()  # of each sequence: the first token that stands there for it, and the last
        self.size = 0
        for i, (ids, prefix) in enumerate(self.sequences):
            before, other = self.sequences[i - 1] if i else ((), None)
            known = shared(before, ids) if i and other is prefix else 0
            if known and self.focus is not None:
                known = alike(self.focus[i - 1], self.focus[i], known)
            start, self.size = self.size, self.size + len(ids) - known
            self.own.append((start, self.size))
            new = torch.arange(start, self.size, device=self.device)
            self.index.append(torch.cat([self.index[-1][:known], new]) if known else new)
        groups = [list(run) for _, run in groupby(range(len(self.sequences)), lambda i: id(self.sequences[i][1]))]
        # Tokens of sequences that share a prefix, and the prefix.
        self.runs = [(self.own[run[0]][0], self.own[run[-1]][1], self.sequences[run[0]][1]) for run in groups]

    @cached_property
    def blocks(self) -> list[_Block]:
        """Sequences that attend to themselves in one call, for `_halves`."""
        return list(_blocks(self.index, self.own))

    @cached_property
    def parts(self) -> list[Part]:
        """The tokens of the pass in order, by what of their prefix they attend to."""
        found, frames = list[Part](), dict[Ranges, Tensor]()
        for i, ((ids, prefix), (start, end)) in enumerate(zip(self.sequences, self.own, strict=True)):
            focus = self.focus[i] if self.focus is not None and prefix is not None else None
            known, first = len(ids) - (end - start), 0
            for last, shown in zip(focus.ends, focus.shown, strict=True) if focus else [(len(ids), None)]:
                if last > max(known, first):
                    seen = None
                    if focus is not None and shown is not None:
                        if focus.frame not in frames:
                            frames[focus.frame] = self._places(focus.frame)
                        seen = torch.cat([frames[focus.frame], self._places(shown)])
                    found.append(Part(start + max(first - known, 0), start + last - known, i, prefix, seen))
                first = last
        return found

    def _places(self, ranges: Ranges) -> Int[Tensor, " tokens"]:
        found = [torch.arange(start, end, device=self.device) for start, end in ranges]
        return torch.cat([torch.arange(0, device=self.device), *found])

    @cached_property
    def looks(self) -> list[tuple[int, int, Prefix, Int[Tensor, " seen"] | None]]:
        """Tokens `[start, end)` of the pass that attend to some tokens of a prefix: `parts`, neighbours that attend to
        all of the same one together."""
        found = list[tuple[int, int, Prefix, Tensor | None]]()
        for part in self.parts:
            if part.prefix is None:
                continue
            start = part.start
            if found and found[-1][2] is part.prefix and found[-1][3] is None and part.seen is None:
                start = found.pop()[0]
            found.append((start, part.end, part.prefix, part.seen))
        return found

    @cached_property
    def masks(self) -> list[Float[Tensor, "tokens keys"]]:
        """For each of `runs`, 0 where a token sees a key (its prefix's, then the run's own), else minus infinity."""
        found = []
        for start, end, prefix in self.runs:
            mask = torch.full((end - start, (len(prefix) if prefix else 0) + end - start), -torch.inf)
            mask[:, : mask.shape[1] - (end - start)] = 0
            own = mask[:, mask.shape[1] - (end - start) :]
            for (first, last), index in zip(self.own, self.index, strict=True):
                if start <= first < last <= end:
                    places = index.cpu() - start
                    known = len(places) - (last - first)
                    for i in range(known, len(places)):
                        own[places[i], places[: i + 1]] = 0
            for part in self.parts:
                if prefix is not None and part.seen is not None and start <= part.start < end:
                    rows = mask[part.start - start : part.end - start]
                    rows[:, : len(prefix)] = -torch.inf
                    rows[:, part.seen.cpu()] = 0
            found.append(mask.to(self.device))
        return found

    @property
    def kept(self) -> list[Prefix]:
        """See `keep`."""
        found = []
        for (ids, prefix), layers in zip(self.sequences, self._stored, strict=True):
            found.append(Prefix((*(prefix.ids if prefix else ()), *ids), layers))
        return found

    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        tokens, positions = list[int](), list[int]()
        for (ids, prefix), (start, end) in zip(self.sequences, self.own, strict=True):
            known, offset = len(ids) - (end - start), len(prefix) if prefix else 0
            tokens += ids[known:]
            positions += range(offset + known, offset + len(ids))
        return {
            "input_ids": torch.tensor([tokens], device=self.device),
            "position_ids": torch.tensor([positions], device=self.device),
            "use_cache": False,
            "pack": self,
        }

    def store(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Keep what a layer made of the sequences. Raises PassEnds at layer `depth`."""
        for i, stored in enumerate(self._stored):
            stored.append(self.whole(i, layer, keys, values))
        if layer >= self.depth:
            raise PassEnds

    def whole(self, i: int, layer: int, keys: Tensor, values: Tensor) -> Layer:
        """Keys and values of a sequence behind those of its prefix."""
        prefix, index = self.sequences[i][1], self.index[i]
        keys, values = keys[:, :, index], values[:, :, index]
        if prefix is None:
            return keys, values
        before = prefix.layers[layer]
        return torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)


@dataclass(frozen=True)
class Part:
    """Tokens `[start, end)` of a pass, of one sequence, that attend to the same tokens of its prefix: None for all."""

    start: int
    end: int
    sequence: int
    prefix: Prefix | None
    seen: Int[Tensor, " seen"] | None


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
    attend = _runs if torch.is_grad_enabled() else _halves if query.device.type == "cpu" else _wholes
    return attend(pack, module.layer_idx, query, key, value, scale).transpose(1, 2).contiguous(), None


def _halves(pack: Pack, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention to itself and to the prefix, joined. CPU: its kernel gives the log-sum-exp."""
    out, log_sum = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    for block in pack.blocks:
        own, own_sum = _flash(block.take(query), block.take(key), block.take(value), True, scale)
        block.put(out, own)
        block.put(log_sum, own_sum)
    for start, end, prefix, seen in pack.looks:
        far, far_sum = _flash(query[:, :, start:end], *prefix.seen(seen, layer), False, scale)
        weight = torch.sigmoid(far_sum - log_sum[:, :, start:end])[..., None].to(query.dtype)
        out[:, :, start:end].lerp_(far, weight.expand_as(far))
    return out


def _wholes(pack: Pack, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of each sequence to prefix and itself at once: what every device can do."""
    groups, out = query.shape[1] // key.shape[1], torch.empty_like(query)
    for part in pack.parts:
        # What the sequence holds up to the part's end, and before it what it sees of the prefix.
        index = pack.index[part.sequence]
        index = index[: len(index) - (pack.own[part.sequence][1] - part.end)]
        keys, values = key[:, :, index], value[:, :, index]
        if part.prefix is not None:
            before = part.prefix.seen(part.seen, layer)
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        if groups > 1:
            keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        bias = causal_lower_right(part.end - part.start, keys.shape[2])
        out[:, :, part.start : part.end] = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, part.start : part.end], keys, values, attn_mask=bias, scale=scale
        )
    return out


def _runs(pack: Pack, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention of all sequences behind a prefix in one call, under a mask: few calls, each with a gradient."""
    found = []
    for (start, end, prefix), mask in zip(pack.runs, pack.masks, strict=True):
        keys, values = key[:, :, start:end], value[:, :, start:end]
        if prefix is not None:
            before = prefix.layers[layer]
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], keys, values, attn_mask=mask.to(query.dtype), scale=scale, enable_gqa=True
            )
        )
    return torch.cat(found, 2)


@dataclass(frozen=True)
class _Block:
    """Sequences of about the same length that attend to themselves in one call.

    count, width: sequences, and tokens of the longest. index: `[count * width]` token of the pass by place; places
    beyond a sequence's end hold its last token again, which no token before them sees. own, places: tokens that stand
    in the pass for these sequences, and where they are found among the places.
    """

    count: int
    width: int
    index: Int[Tensor, " places"] | slice
    own: Int[Tensor, " tokens"] | slice
    places: Int[Tensor, " tokens"] | slice

    def take(self, x: Tensor) -> Float[Tensor, "count heads width d"]:
        """`[1, heads, tokens, d]` by sequence."""
        return x[0][:, self.index].unflatten(1, (self.count, self.width)).transpose(0, 1)

    def put(self, out: Tensor, found: Float[Tensor, "count heads width *d"]) -> None:
        """The reverse of `take`, into `out`."""
        out[0][:, self.own] = found.transpose(0, 1).flatten(1, 2)[:, self.places]


def _blocks(index: Sequence[Tensor], own: Sequence[tuple[int, int]]) -> Iterator[_Block]:
    order = sorted((i for i in range(len(index)) if own[i][0] < own[i][1]), key=lambda i: len(index[i]))
    while order:
        count, total = 0, 0
        while count < len(order):  # ascending: the next one is the longest
            longer = total + len(index[order[count]])
            if len(index[order[count]]) * (count + 1) > WASTE * longer:
                break
            count, total = count + 1, longer
        yield _block([index[i] for i in order[:count]], [own[i] for i in order[:count]])
        order = order[count:]


def _block(index: Sequence[Tensor], own: Sequence[tuple[int, int]]) -> _Block:
    width = len(index[-1])
    padded = torch.cat([torch.cat([each, each[-1:].expand(width - len(each))]) for each in index])
    tokens = torch.cat([torch.arange(start, end) for start, end in own])
    if torch.equal(padded, tokens) and torch.equal(tokens, torch.arange(own[0][0], own[-1][1])):
        every = slice(own[0][0], own[-1][1])  # nothing is shared, nothing padded: no need to gather
        return _Block(len(index), width, every, every, slice(None))
    lasts = [i * width + len(each) for i, each in enumerate(index)]
    places = [torch.arange(last - (end - start), last) for last, (start, end) in zip(lasts, own, strict=True)]
    return _Block(len(index), width, padded, tokens, torch.cat(places))


def depth(hookpoint: str, model: Any) -> int:
    """The last decoder layer whose keys and values a hookpoint needs: the first number in its path, else the last."""
    number = next((int(part) for part in hookpoint.split(".") if part.isdigit()), None)
    return model.config.get_text_config().num_hidden_layers - 1 if number is None else number


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two sequences have in common from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and its log-sum-exp `[batch, heads, tokens]`, float32; heads may share keys and values."""
    kernel: Callable[..., tuple[Tensor, Tensor]] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(query, key, value, 0.0, causal, scale=scale)
