"""How the Hugging Face engine reads responses to models whose attention cannot be packed: prompt by prompt, padded."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.engines.base import Asked
from groundwire.errors import CaptureError

if TYPE_CHECKING:
    from groundwire.engines.transformers import TransformersEngine

# Prompt and response tokens whose keys and values are held at once: about 0.5 GB for a 135M reader.
REPLAY_TOKENS = 16_384


Rows = tuple[Float[Tensor, "rows d"], Int[Tensor, " rows"]]


@runtime_checkable
class Replaying(Protocol):
    """A way to read responses."""

    def rows(self, asked: Sequence[Asked]) -> Iterator[Rows]:
        """Residual rows pass by pass, and the response each belongs to, counted through all prompts.

        All rows of a response come in one pass, in the order of its tokens; one without tokens has none.
        """
        ...


class PaddedReplay:
    """Reads by padded batches, with the library's own attention and caches; works for every decoder."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def rows(self, asked: Sequence[Asked]) -> Iterator[Rows]:
        """See `Replaying.rows`."""
        first = 0
        for each in asked:
            if each.focus:
                raise CaptureError(
                    f"answers that attend to parts of their prompt, with {self._engine.model_id}",
                    expected="a model in which every token sees all before it (no sliding windows)",
                    remedy='ask for the reading "own", or for an artifact without focus',
                )
            for rows, slots in self._prompt(each.prompt, each.responses):
                yield rows, slots + first
            first += len(each.responses)

    def _prompt(self, prompt: Sequence[int], responses: Sequence[Sequence[int]]) -> Iterator[Rows]:
        todo = sorted((i for i in range(len(responses)) if responses[i]), key=lambda i: len(responses[i]))
        if not todo:
            return
        cache = self._prefill(prompt)
        while todo:
            batch = [todo.pop(0)]
            while todo and (len(prompt) + len(responses[todo[0]])) * (len(batch) + 1) <= REPLAY_TOKENS:
                batch.append(todo.pop(0))
            yield self._batch(cache, len(prompt), [responses[i] for i in batch], batch)

    def _prefill(self, prompt: Sequence[int]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self._engine.model.config)
        if prompt:
            self._engine.forward(stop=True, input_ids=self._ids([prompt]), past_key_values=cache, use_cache=True)
            self._engine.tokens_read += len(prompt)
        return cache

    def _batch(self, cache: Any, offset: int, responses: list[Sequence[int]], numbers: list[int]) -> Rows:
        width, device = max(map(len, responses)), self._engine.device
        # Padding stands to the right: causal attention never shows it to a token that counts.
        padded = self._ids([list(ids) + [0] * (width - len(ids)) for ids in responses])
        past = copy.deepcopy(cache)
        if offset and len(responses) > 1:
            past.batch_repeat_interleave(len(responses))
        positions = torch.arange(offset, offset + width, device=device).expand(len(responses), -1)
        rows, _ = self._engine.forward(
            stop=True,
            adapter=self._engine.adapter,
            input_ids=padded,
            past_key_values=past,
            position_ids=positions,
            use_cache=True,
        )
        lengths = torch.tensor([len(ids) for ids in responses], device=device)
        self._engine.tokens_read += int(lengths.sum())
        real = torch.arange(width, device=device) < lengths[:, None]
        slots = torch.tensor(numbers, device=device)[:, None].expand(-1, width)
        return rows[real], slots[real]

    def _ids(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(ids) for ids in sequences], dtype=torch.long, device=self._engine.device)
