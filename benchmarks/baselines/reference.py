"""What throughput is measured against: the reference procedure, and the model's bare forward pass.

The reference is RAGLens (arXiv 2512.08892), written from the paper's description: one answer at a time, prompt and
answer through the whole model and its language-model head, every token of both through the whole dictionary
(pre-activations), the maximum over the answer's tokens, an additive model on the chosen latents. Nothing is kept from
one row to the next. The paper's explanation of a flagged answer takes two more such passes; they are not run here, nor
is the selection of a TopK dictionary's largest latents, which scoring has no use for: both would make it slower.

The bare pass is what no scoring can do without: each distinct token once through the layers up to the hookpoint, in
batches of one length, so that nothing is padded; nothing is captured, encoded, tokenised or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.capture import capture
from groundwire.engines.reader import Reader
from groundwire.prompts import render, tokenize_response
from groundwire.sae import Dictionary
from groundwire.types import Example

CHOSEN, CUTS = 1000, 31  # the paper's: latents it keeps, and the cuts of a shape at 32 bins
PASSES = (256, 512, 1024, 2048)  # tokens of a pass, tried for the bare forward


@dataclass(frozen=True)
class Reference:
    """The reference procedure over one model.

    dictionary: encoded whole, whatever is chosen. chosen: latents the head reads, in the order of its shapes.
    """

    reader: Reader
    hookpoint: str
    dictionary: Dictionary
    chosen: Int[Tensor, " chosen"]
    shapes: Shapes
    intercept: float = 0.0

    @classmethod
    def unfitted(cls, reader: Reader, hookpoint: str, dictionary: Dictionary) -> Reference:
        """With a head as large as the paper's and made-up numbers in it: it costs what a fitted one does."""
        random, chosen = np.random.default_rng(0), min(CHOSEN, dictionary.n_latents)
        cuts = np.sort(random.normal(size=(chosen, CUTS)))
        shapes = Shapes.steps(list(cuts), list(random.normal(0, 0.05, (chosen, CUTS + 1))))
        return cls(reader, hookpoint, dictionary, torch.arange(chosen), shapes)

    def ids(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response, tokenised apart as everywhere here."""
        tokenizer = self.reader.tokenizer
        return render(tokenizer, example.messages), [t.id for t in tokenize_response(tokenizer, example.response)]

    def features(self, prompt: Sequence[int], response: Sequence[int]) -> Float[Tensor, " latents"]:
        """Each latent's greatest pre-activation over the response's tokens."""
        model = self.reader.model
        ids = torch.tensor([[*prompt, *response]], device=model.device)
        with self.reader.lock, capture(model, self.hookpoint) as hook:
            rows, _ = hook.run(model, input_ids=ids, attention_mask=torch.ones_like(ids))
        with torch.inference_mode():
            return self.dictionary.pre_activations(rows[0])[len(prompt) :].amax(0)

    def logit(self, example: Example) -> float:
        """Log-odds of unfaithful, from the texts on."""
        return self.intercept + float(self.shapes(self.features(*self.ids(example))[self.chosen]).sum())


@dataclass(frozen=True)
class Distinct:
    """Token ids that scoring some rows has to put through the model: each distinct prompt, each row's response.

    prefix: tokens that stand before a response's, mean over the responses' tokens.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    prefix: int

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Distinct:
        """rows: token ids of prompt and response, for each row."""
        prompts = {tuple(prompt): None for prompt, _ in rows}
        tokens = sum(len(response) for _, response in rows)
        before = sum(len(prompt) * len(response) for prompt, response in rows)
        return cls([list(p) for p in prompts], [list(r) for _, r in rows], round(before / max(tokens, 1)))

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts)) + sum(map(len, self.responses))


@dataclass(frozen=True)
class Shape:
    """One pass: `count` sequences of `length` tokens, each after `prefix` tokens whose keys and values are known.

    packed: the sequences stand in one row behind one copy of the prefix, kept apart by a mask; else they are a batch.
    """

    count: int
    length: int
    prefix: int = 0
    packed: bool = False

    @property
    def tokens(self) -> int:
        return self.count * self.length


@dataclass(frozen=True)
class Work:
    """Tokens to be put through the model in passes of one shape; `scale` times as many in truth."""

    ids: list[int]
    shape: Shape
    scale: float


class Bare:
    """Forward passes that end at the hookpoint and leave nothing behind."""

    def __init__(self, reader: Reader, hookpoint: str) -> None:
        self.reader, self.hookpoint = reader, hookpoint
        self._known: list[tuple[Tensor, Tensor]] = []  # keys and values of a prefix, by layer

    def plan(self, distinct: Distinct, most: int) -> dict[str, Work]:
        """The work of one measurement: "prompts", "responses" (as if nothing stood before them, which is less than
        any scoring can do) and "responses after their prompt" (with attention to a prefix of the mean length).

        Sequences have the mean length of their kind, cut from the tokens in order. For each kind the fastest of a few
        shapes is taken, measured here. most: tokens of a kind to run; beyond them time is scaled by the tokens.
        """
        kinds = {
            "prompts": (distinct.prompts, 0),
            "responses": (distinct.responses, 0),
            "responses after their prompt": (distinct.responses, distinct.prefix),
        }
        found = {}
        for name, (sequences, prefix) in kinds.items():
            ids = [i for sequence in sequences for i in sequence]
            ran = ids[: max(1, most)]
            length = max(1, round(len(ids) / max(1, len(sequences))))
            found[name] = Work(ran, self.fastest(ids, length, prefix), len(ids) / max(1, len(ran)))
        return found

    def seconds(self, work: Work) -> float:
        """Wall time of the work, scaled to all of its tokens."""
        start = perf_counter()
        self.run(work.ids, work.shape)
        return work.scale * (perf_counter() - start)

    def fastest(self, ids: Sequence[int], length: int, prefix: int = 0) -> Shape:
        """The shape with most tokens a second, among those of about `PASSES` tokens: each by the better of two runs,
        after one that does not count."""
        counts = sorted({max(1, round(tokens / length)) for tokens in PASSES})
        forms = [False, True] if prefix else [False]
        shapes = [Shape(count, length, prefix, packed) for count in counts for packed in forms]
        return max(shapes, key=lambda shape: self._speed(_repeated(ids, shape.tokens), shape))

    def _speed(self, ids: Sequence[int], shape: Shape) -> float:
        self.run(ids, shape)
        times = []
        for _ in range(2):
            start = perf_counter()
            self.run(ids, shape)
            times.append(perf_counter() - start)
        return len(ids) / min(times)

    def run(self, ids: Sequence[int], shape: Shape) -> int:
        """Put every token of `ids` through the layers, the last ones in smaller passes; return how many passes."""
        known = self._known[0][0].shape[2] if self._known else 0
        if known < shape.prefix:
            self._know(_repeated(ids, shape.prefix))
        flat, passes = torch.tensor(ids, device=self.reader.model.device), 0
        whole = len(flat) // shape.length * shape.length
        for part in [*flat[:whole].split(shape.tokens), *flat[whole:].split(shape.length)]:
            if len(part):
                self._pass(part.view(-1, min(shape.length, len(part))), shape)
                passes += 1
        return passes

    def _pass(self, ids: Int[Tensor, "count length"], shape: Shape) -> None:
        count, length = ids.shape
        if not shape.prefix:
            self._forward(input_ids=ids, use_cache=False)
            return
        positions = torch.arange(shape.prefix, shape.prefix + length, device=ids.device).expand(count, -1)
        if not shape.packed:
            past = self._past(shape.prefix, count)
            self._forward(input_ids=ids, position_ids=positions, past_key_values=past, use_cache=True)
            return
        own = torch.arange(count * length, device=ids.device)
        same, before = own[:, None] // length == own // length, own[:, None] >= own
        mask = torch.nn.functional.pad(same & before, (shape.prefix, 0), value=True)[None, None]
        past = self._past(shape.prefix, 1)
        self._forward(
            input_ids=ids.view(1, -1),
            position_ids=positions.reshape(1, -1),
            attention_mask=mask,
            past_key_values=past,
            use_cache=True,
        )

    def _forward(self, **inputs: Any) -> None:
        model = self.reader.model
        with self.reader.lock, capture(model, self.hookpoint, stop=True) as hook:
            hook.run(model, **inputs)

    def _know(self, ids: list[int]) -> None:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.reader.model.config)
        inputs = torch.tensor([ids], device=self.reader.model.device)
        self._forward(input_ids=inputs, past_key_values=cache, use_cache=True)
        self._known = [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]

    def _past(self, prefix: int, count: int) -> Any:
        """A cache that holds the prefix `count` times, as views."""
        from transformers import DynamicCache

        cache = DynamicCache(config=self.reader.model.config)
        for layer, (keys, values) in zip(cache.layers, self._known, strict=False):
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = (x[:, :, :prefix].expand(count, -1, -1, -1) for x in (keys, values))
        return cache


def _repeated(ids: Sequence[int], count: int) -> list[int]:
    """`count` of the ids, from the start again where there are fewer."""
    return (list(ids) * (count // max(1, len(ids)) + 1))[:count]
