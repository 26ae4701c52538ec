"""The Hugging Face engine: any decoder-only model, hooked while it generates or replays.

Generation decodes a batch of requests together. A replay ends at the hookpoint and encodes a shared prompt once: its
keys and values are copied for every response.

The hook is in place for the length of one forward pass, under the reader's lock: generators may be interleaved,
abandoned or run in several threads, also by engines that share a reader.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.capture import capture, find_module
from groundwire.engines.base import Asked
from groundwire.engines.generation import Generation, timed
from groundwire.engines.reader import Reader
from groundwire.errors import PromptTooLong
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Step

# Prompt and response tokens whose keys and values are held at once in a replay: about 0.5 GB for a 135M reader.
REPLAY_TOKENS = 16_384


class TransformersEngine:
    """Runs a `Reader` and captures at `hookpoint` (dotted submodule path).

    Raises CaptureError at once where the model has no such submodule.
    """

    def __init__(self, reader: Reader, hookpoint: str) -> None:
        self.reader, self.hookpoint = reader, hookpoint
        self.model, self.tokenizer = reader.model, reader.tokenizer
        self.model_id: str = reader.id
        self.fingerprint: Mapping[str, str] = reader.fingerprint
        self.context: int = reader.context
        self.tokens_read = 0
        find_module(self.model, hookpoint)
        self.end_ids = _end_ids(self.model, self.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, *, stop: bool = False, **inputs: Any) -> tuple[Float[Tensor, "batch tokens d"], Any]:
        """One hooked forward pass: the hookpoint's rows, and the model's output (None where the pass stops there)."""
        with self.reader.lock, capture(self.model, self.hookpoint, stop=stop) as hook:
            return hook.run(self.model, **inputs)

    # -- replay ---------------------------------------------------------------------------------------------------

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """See `Engine.replay`."""
        return [self._replay(each.prompt, each.responses, scorer) for each in asked]

    def _replay(self, prompt: Sequence[int], responses: Sequence[Sequence[int]], scorer: Scorer) -> list[Readout]:
        device = scorer.encoder.weight.device
        state, began = scorer.new_state(len(responses), device), perf_counter()
        check = 0.0
        for rows, slots in self.replay_rows(prompt, responses):
            start = perf_counter()
            scorer.fold(state, scorer.encode(rows.to(device)), slots.to(device))
            check += perf_counter() - start
        forward = perf_counter() - began - check
        share = max(1, len(responses))
        return [timed(scorer.finish(state, i), forward / share, check / share) for i in range(len(responses))]

    def replay_rows(
        self, prompt: Sequence[int], responses: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Float[Tensor, "rows d"], Int[Tensor, " rows"]]]:
        """Residual rows of the responses' tokens, batch by batch, with the number of the response each belongs to."""
        longest = max(map(len, responses), default=0)
        self.check_length(len(prompt), longest)
        todo = sorted((i for i in range(len(responses)) if responses[i]), key=lambda i: len(responses[i]))
        if not todo:
            return
        cache = self._prefill(prompt)
        while todo:
            batch = [todo.pop(0)]
            while todo and (len(prompt) + len(responses[todo[0]])) * (len(batch) + 1) <= REPLAY_TOKENS:
                batch.append(todo.pop(0))
            yield self._replay_batch(cache, len(prompt), [responses[i] for i in batch], batch)

    def _prefill(self, prompt: Sequence[int]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        if prompt:
            self.forward(stop=True, input_ids=self._ids([prompt]), past_key_values=cache, use_cache=True)
        return cache

    def _replay_batch(
        self, cache: Any, offset: int, responses: list[Sequence[int]], numbers: list[int]
    ) -> tuple[Tensor, Tensor]:
        width = max(map(len, responses))
        # Padding stands to the right: causal attention never shows it to a token that counts.
        padded = self._ids([list(ids) + [0] * (width - len(ids)) for ids in responses])
        past = copy.deepcopy(cache)
        if offset and len(responses) > 1:
            past.batch_repeat_interleave(len(responses))
        positions = torch.arange(offset, offset + width, device=self.device).expand(len(responses), -1)
        rows, _ = self.forward(
            stop=True, input_ids=padded, past_key_values=past, position_ids=positions, use_cache=True
        )
        lengths = torch.tensor([len(ids) for ids in responses], device=self.device)
        real = torch.arange(width, device=self.device) < lengths[:, None]
        slots = torch.tensor(numbers, device=self.device)[:, None].expand(-1, width)
        return rows[real], slots[real]

    def read(self, ids: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """See `Engine.read`."""
        self.check_length(len(ids), 0)
        rows, _ = self.forward(stop=True, input_ids=self._ids([ids]), use_cache=False)
        return rows[0].float()

    # -- generation -----------------------------------------------------------------------------------------------

    def begin(self, scorer: Scorer) -> Generation:
        """See `Engine.begin`."""
        return Generation(self, scorer)

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """See `Engine.generate`."""
        generation = self.begin(scorer)
        for request in requests:
            generation.add(request)
        while len(generation):
            yield from generation.step()

    # -- both -----------------------------------------------------------------------------------------------------

    def _ids(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(ids) for ids in sequences], dtype=torch.long, device=self.device)

    def check_length(self, prompt: int, response: int) -> None:
        """Raises PromptTooLong where so many tokens exceed the context."""
        if prompt + response > self.context:
            raise PromptTooLong(
                f"{prompt} prompt tokens and {response} response tokens",
                expected=f"at most {self.context} together, the context of {self.model_id}",
                remedy="send fewer or shorter passages, or ask for fewer tokens",
            )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those of the model's generation settings (one, several, none), and the tokenizer's."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)
