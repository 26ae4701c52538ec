"""The Hugging Face engine: any decoder-only model, hooked while it generates or replays.

Generation decodes a batch of requests together. A replay ends at the hookpoint and reads what prompts and responses
share once (`replay`; `padded` for models whose attention cannot be packed).

The hook is in place for the length of one forward pass, under the reader's lock: generators may be interleaved,
abandoned or run in several threads, also by engines that share a reader.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.adapter import Adapter
from groundwire.capture import adapted, capture, find_module
from groundwire.engines.base import Asked
from groundwire.engines.generation import Generation, timed
from groundwire.engines.padded import Replaying, Rows
from groundwire.engines.reader import Reader
from groundwire.engines.replay import PackedReplay, replaying
from groundwire.errors import PromptTooLong
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Step


class TransformersEngine:
    """Runs a `Reader` and captures at `hookpoint` (dotted submodule path).

    adapter: active while responses are replayed, on their tokens alone; prompts are read, and answers generated, by the
    base model. Raises CaptureError at once where the model has no such submodule.
    """

    def __init__(self, reader: Reader, hookpoint: str, adapter: Adapter | None = None) -> None:
        self.reader, self.hookpoint = reader, hookpoint
        self.model, self.tokenizer = reader.model, reader.tokenizer
        self.model_id: str = reader.id
        self.fingerprint: Mapping[str, str] = reader.fingerprint
        self.context: int = reader.context
        self.dtype = reader.dtype
        self.tokens_read = 0
        find_module(self.model, hookpoint)
        self.adapter = adapter.to(self.device, self.model.get_input_embeddings().weight.dtype) if adapter else None
        with reader.lock, adapted(self.model, self.adapter):
            pass  # refuses an adapter of another model
        self.end_ids = _end_ids(self.model, self.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def adapted(self, adapter: Adapter) -> TransformersEngine:
        """An engine of the same model that replays with `adapter`."""
        return TransformersEngine(self.reader, self.hookpoint, adapter)

    def forward(
        self, *, stop: bool = False, adapter: Adapter | None = None, **inputs: Any
    ) -> tuple[Float[Tensor, "batch tokens d"], Any]:
        """One hooked forward pass: the hookpoint's rows, and the model's output (None where the pass stops there)."""
        with (
            self.reader.lock,
            adapted(self.model, adapter),
            capture(self.model, self.hookpoint, stop=stop) as hook,
        ):
            return hook.run(self.model, **inputs)

    # -- replay ---------------------------------------------------------------------------------------------------

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """See `Engine.replay`."""
        distinct = [list(dict.fromkeys(map(tuple, each.responses))) for each in asked]  # equal answers are read once
        numbers = itertools.count()
        places = [{response: next(numbers) for response in responses} for responses in distinct]
        found: dict[int, Readout] = {}
        began = perf_counter()
        for rows, slots in self.replay_rows([replace(a, responses=d) for a, d in zip(asked, distinct, strict=True)]):
            found |= _finished(scorer, rows, slots, perf_counter() - began, features)
            began = perf_counter()
        empty = scorer.finish(scorer.new_state(1), 0)
        return [
            [found.get(place[tuple(response)], empty) for response in each.responses]
            for each, place in zip(asked, places, strict=True)
        ]

    def replay_rows(self, asked: Sequence[Asked]) -> Iterator[Rows]:
        """Residual rows of the responses' tokens, pass by pass, with the number of the response each belongs to.

        Responses are counted through all prompts; one without tokens has no rows. All rows of a response come in one
        pass. Raises PromptTooLong before the first pass.
        """
        for each in asked:
            self.check_length(len(each.prompt), max(map(len, each.responses), default=0))
        yield from self._replaying.rows(asked)

    @property
    def focuses(self) -> bool:
        """See `Adaptable`: of models whose answers can be packed."""
        return isinstance(self._replaying, PackedReplay)

    @cached_property
    def _replaying(self) -> Replaying:
        return replaying(self)

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


def _finished(scorer: Scorer, rows: Tensor, slots: Tensor, forward: float, keep: bool) -> dict[int, Readout]:
    """Readouts of the responses whose rows came in one pass, by number. forward: seconds the pass took."""
    start, device = perf_counter(), scorer.encoder.weight.device
    numbers, own = slots.to(device).unique(return_inverse=True)
    features = scorer.encode(rows.to(device))
    state = scorer.fold(scorer.new_state(len(numbers), device), features, own)
    found = [scorer.finish(state, i) for i in range(len(numbers))]
    share, check = forward / len(numbers), (perf_counter() - start) / len(numbers)
    return {
        number: replace(timed(readout, share, check), features=features[own == i].cpu() if keep else None)
        for i, (number, readout) in enumerate(zip(numbers.tolist(), found, strict=True))
    }


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those of the model's generation settings (one, several, none), and the tokenizer's."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)
