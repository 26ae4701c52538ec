"""What the Hugging Face engine keeps while it generates: the answers under way, and the batch they decode in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.engines.cache import growing_cache, growing_layers
from groundwire.engines.decoding import TextStream
from groundwire.engines.packed import Prefix
from groundwire.types import FinishReason, Request, TokenLogprob


@dataclass
class Answer:
    """One request being generated. `closing` is set when one more pass is due, for the last token's row."""

    request: Request
    prompt: tuple[int, ...]
    slot: int
    stream: TextStream
    generator: torch.Generator | None
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)  # of `ids`, where asked for
    pending: list[Tensor] = field(default_factory=list)  # features of rows not yet known to be visible
    visible: int = 0
    folded: int = 0
    closing: FinishReason | None = None
    forward_seconds: float = 0.0
    check_seconds: float = 0.0

    @classmethod
    def begin(
        cls, request: Request, prompt: tuple[int, ...], slot: int, tokenizer: Any, device: torch.device
    ) -> Answer:
        sampling = request.sampling
        generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)
        return cls(request, prompt, slot, TextStream(tokenizer, sampling.stop), generator)

    def release(self, terms: int) -> Float[Tensor, "rows terms"]:
        """Features of the rows that are due: their tokens are visible and were inputs."""
        count = min(len(self.pending), self.visible - self.folded)
        if count <= 0:
            return torch.zeros(0, terms)
        features = torch.stack(self.pending[:count])
        del self.pending[:count]
        self.folded += count
        return features


class Batch:
    """Keys, values and masks of requests that decode together. The shorter ones are padded on the left.

    forward: one hooked pass of the model: its inputs by name in, the hookpoint's rows and the model's output out.
    """

    def __init__(
        self, forward: Callable[..., Any], config: Any, device: torch.device, prompts: Sequence[Sequence[int]]
    ) -> None:
        width = max(map(len, prompts))
        self._forward, self.cache = forward, growing_cache(config)
        self.ids = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in prompts], device=device)
        lengths = torch.tensor([[len(ids)] for ids in prompts], device=device)
        self.mask = (torch.arange(width, device=device) >= width - lengths).long()
        self.positions = (self.mask.cumsum(-1) - 1).clamp_min(0)

    def forward(self, *, stop: bool = False) -> tuple[Float[Tensor, "batch d"], Float[Tensor, "batch vocabulary"]]:
        """One pass; the last token's residual row and logits of every request.

        stop: the pass ends at the hookpoint: there are no logits, and no pass may follow.
        """
        rows, output = self._forward(
            stop=stop,
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = rows.new_zeros(len(rows), 0) if output is None else output.logits[:, -1].float()
        return rows[:, -1], logits

    def feed(self, ids: list[int]) -> None:
        """Set the next input of every request."""
        self.ids = self.ids.new_tensor([[i] for i in ids])
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=1)
        self.positions = self.positions[:, -1:] + 1

    def select(self, stay: list[int]) -> None:
        """Drop all requests but these, and the padding that only the others needed."""
        if len(stay) == len(self.mask):
            return
        index = torch.tensor(stay, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.ids, self.mask, self.positions = self.ids[index], self.mask[index], self.positions[index]
        padding = int(self.mask.any(0).int().argmax())
        if padding and (layers := growing_layers(self.cache)):
            for layer in layers:
                layer.cut(padding)
            self.mask = self.mask[:, padding:]

    def prefix(self, place: int, prompt: tuple[int, ...], depth: int) -> Prefix | None:
        """The keys and values of the prompt of the request at `place`, up to layer `depth`; no copy.

        None where a layer does not keep them all. The last token of a prompt is among them once it was an input.
        """
        layers = growing_layers(self.cache)
        if layers is None or not prompt:
            return None
        start = int(self.mask[place].argmax())
        own = slice(start, start + len(prompt))
        one = slice(place, place + 1)
        return Prefix(prompt, [(x.keys[one, :, own], x.values[one, :, own]) for x in layers[: depth + 1]])

    @property
    def joinable(self) -> bool:
        """Whether every layer keeps all keys and values, so that padding can be put before them."""
        return growing_layers(self.cache) is not None

    def join(self, other: Batch) -> None:
        """Take the requests of `other` in, behind those here; both have been fed."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(growing_layers(self.cache) or (), growing_layers(other.cache) or (), strict=True):
            mine.join(theirs, width - 1)
        masks = [torch.nn.functional.pad(b.mask, (width - b.mask.shape[1], 0)) for b in (self, other)]
        self.mask = torch.cat(masks)
        self.ids = torch.cat([self.ids, other.ids])
        self.positions = torch.cat([self.positions, other.positions])
