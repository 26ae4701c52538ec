"""Keys and values of a decoding batch: they grow in place, and batches can be joined and cut.

The library's own layer copies the whole cache for every token; this one writes into room kept free.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 128  # tokens for which a layer has room when it must be copied


class GrowingLayer(DynamicLayer):
    """A layer that keeps all keys and values, `[batch, heads, tokens, d]`, in buffers with room to grow."""

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: list[Tensor] = []

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        # Whatever replaced keys and values from outside (a selection of rows) left the buffers behind.
        current = bool(self._buffers) and before > 0 and self._buffers[0].data_ptr() == self.keys.data_ptr()
        if not current or after > self._buffers[0].shape[-2] or len(self._buffers[0]) != len(key_states):
            self._buffers = [_with_room(self.keys, key_states, before), _with_room(self.values, value_states, before)]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., before:after, :] = new
        self.keys, self.values = (buffer[..., :after, :] for buffer in self._buffers)
        return self.keys, self.values

    def cut(self, first: int) -> None:
        """Drop what stands before token `first` of every request."""
        self.keys, self.values = self.keys[..., first:, :].clone(), self.values[..., first:, :].clone()

    def join(self, other: GrowingLayer, width: int) -> None:
        """Put the requests of `other` behind those here, all padded on the left to `width` tokens."""
        self.keys = _joined(self.keys, other.keys, width)
        self.values = _joined(self.values, other.values, width)


def growing_cache(config: Any) -> DynamicCache:
    """An empty cache of the model's own layout; layers that keep everything grow in place."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def growing_layers(cache: DynamicCache) -> list[GrowingLayer] | None:
    """The layers, where every one of them keeps all keys and values; else None."""
    layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
    return layers if len(layers) == len(cache.layers) else None


def _joined(first: Tensor, second: Tensor, width: int) -> Tensor:
    batch, heads, _, size = first.shape
    out = first.new_zeros(batch + len(second), heads, width, size)
    out[:batch, :, width - first.shape[-2] :] = first
    out[batch:, :, width - second.shape[-2] :] = second
    return out


def _with_room(old: Tensor, new: Float[Tensor, "batch heads tokens d"], before: int) -> Tensor:
    batch, heads, tokens, size = new.shape
    buffer = torch.empty(batch, heads, before + tokens + ROOM, size, dtype=new.dtype, device=new.device)
    if before:
        buffer[..., :before, :] = old
    return buffer
