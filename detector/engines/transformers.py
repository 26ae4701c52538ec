"""The Hugging Face engine: any decoder-only model, hooked while it generates or replays.

Generation decodes a batch of requests together. A replay ends at the hookpoint and encodes a shared prompt once: its
keys and values are copied for every response.

The hook is in place for the length of one forward pass, under the reader's lock: generators may be interleaved,
abandoned or run in several threads, also by engines that share a reader.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from groundwire.capture import capture, find_module
from groundwire.engines.batch import Answer, Batch
from groundwire.engines.decoding import sample
from groundwire.engines.reader import Reader
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import render
from groundwire.scoring import Scorer, State
from groundwire.types import FinishReason, Readout, Request, Step, Token

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
        find_module(self.model, hookpoint)
        self._end_ids = _end_ids(self.model, self.tokenizer)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, *, stop: bool = False, **inputs: Any) -> tuple[Float[Tensor, "batch tokens d"], Any]:
        """One hooked forward pass: the hookpoint's rows, and the model's output (None where the pass stops there)."""
        with self.reader.lock, capture(self.model, self.hookpoint, stop=stop) as hook:
            return hook.run(self.model, **inputs)

    # -- replay ---------------------------------------------------------------------------------------------------

    def replay(self, prompt: Sequence[int], responses: Sequence[Sequence[int]], scorer: Scorer) -> list[Readout]:
        """See `Engine.replay`."""
        device = scorer.encoder.weight.device
        state, began = scorer.new_state(len(responses), device), perf_counter()
        check = 0.0
        for rows, slots in self.replay_rows(prompt, responses):
            start = perf_counter()
            scorer.fold(state, scorer.encode(rows.to(device)), slots.to(device))
            check += perf_counter() - start
        forward = perf_counter() - began - check
        share = max(1, len(responses))
        return [_timed(scorer.finish(state, i), forward / share, check / share) for i in range(len(responses))]

    def replay_rows(
        self, prompt: Sequence[int], responses: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Float[Tensor, "rows d"], Int[Tensor, " rows"]]]:
        """Residual rows of the responses' tokens, batch by batch, with the number of the response each belongs to."""
        longest = max(map(len, responses), default=0)
        self._check_length(len(prompt), longest)
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
        self._check_length(len(ids), 0)
        rows, _ = self.forward(stop=True, input_ids=self._ids([ids]), use_cache=False)
        return rows[0].float()

    # -- generation -----------------------------------------------------------------------------------------------

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """See `Engine.generate`. Requests decode in one batch; those that end leave it."""
        prompts = [render(self.tokenizer, request.messages) for request in requests]
        for request, prompt in zip(requests, prompts, strict=True):
            _check_sampling(request)
            self._check_length(len(prompt), request.sampling.max_tokens)
        if not requests:
            return
        answers = [Answer.begin(request, slot, self.tokenizer, self.device) for slot, request in enumerate(requests)]
        device = scorer.encoder.weight.device
        state = scorer.new_state(len(requests), device)
        batch = Batch(self.forward, self.model.config, self.device, prompts)
        while answers:
            start = perf_counter()
            rows, logits = batch.forward()
            spent = perf_counter() - start
            features = scorer.encode(rows.to(device))
            encoding = perf_counter() - start - spent
            for answer in answers:
                answer.forward_seconds += spent / len(answers)
                answer.check_seconds += encoding / len(answers)
            steps = self._steps(answers, features, logits, scorer, state)
            yield from ((answer.request.id, step) for answer, step in zip(answers, steps, strict=True))
            stay = [i for i, step in enumerate(steps) if step.finish_reason is None]
            answers = [answers[i] for i in stay]
            batch.keep(stay, [answer.ids[-1] for answer in answers])

    def _steps(
        self, answers: Sequence[Answer], features: Tensor, logits: Tensor, scorer: Scorer, state: State
    ) -> list[Step]:
        """Sample and decode for every answer; fold the features of tokens that are visible by now, all at once."""
        moves = []
        for i, answer in enumerate(answers):
            if answer.ids:  # the first pass brought the prompt's rows only
                answer.pending.append(features[i])
            moves.append(self._advance(answer, logits[i]))
        start = perf_counter()
        ready = [answer.release(scorer.terms) for answer in answers]
        slots = torch.tensor([a.slot for a, rows in zip(answers, ready, strict=True) for _ in rows], dtype=torch.long)
        if due := [rows for rows in ready if len(rows)]:
            scorer.fold(state, torch.cat(due), slots.to(features.device))
        steps = []
        for answer, (text, tokens, over), rows in zip(answers, moves, ready, strict=True):
            logit = scorer.logit(state, answer.slot) if answer.folded else None
            readout = scorer.finish(state, answer.slot) if over else None
            steps.append(Step(text, tokens, rows, logit, over, readout))
        share = (perf_counter() - start) / len(answers)
        for i, (answer, step) in enumerate(zip(answers, steps, strict=True)):
            answer.check_seconds += share
            if step.readout:
                timed = _timed(step.readout, answer.forward_seconds, answer.check_seconds)
                steps[i] = replace(step, readout=timed)
        return steps

    def _advance(self, answer: Answer, logits: Tensor) -> tuple[str, tuple[Token, ...], FinishReason | None]:
        """Sample the next token; return what became visible and, where no more pass is due, why the answer ended."""
        if answer.closing:
            return "", (), answer.closing
        token_id = sample(logits, answer.request.sampling, answer.generator)
        if token_id in self._end_ids:
            text, tokens = answer.stream.close()
            answer.visible += len(tokens)
            return text, tokens, "stop"
        answer.ids.append(token_id)
        text, tokens = answer.stream.push(token_id)
        if answer.stream.stopped:
            answer.closing = "stop"
        elif len(answer.ids) >= answer.request.sampling.max_tokens:
            answer.closing = "length"
            rest, more = answer.stream.close()
            text, tokens = text + rest, tokens + more
        # The last token was not an input yet: one more pass brings its row, unless it is not visible anyway.
        answer.visible += len(tokens)
        complete = answer.visible <= answer.folded + len(answer.pending)
        return text, tokens, answer.closing if complete else None

    # -- both -----------------------------------------------------------------------------------------------------

    def _ids(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(ids) for ids in sequences], dtype=torch.long, device=self.device)

    def _check_length(self, prompt: int, response: int) -> None:
        if prompt + response > self.context:
            raise PromptTooLong(
                f"{prompt} prompt tokens and {response} response tokens",
                expected=f"at most {self.context} together, the context of {self.model_id}",
                remedy="send fewer or shorter passages, or ask for fewer tokens",
            )


def _timed(readout: Readout, forward: float, check: float) -> Readout:
    return replace(readout, forward_seconds=forward, check_seconds=check)


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Ids that end an answer: those of the model's generation settings (one, several, none), and the tokenizer's."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in [*ends, tokenizer.eos_token_id] if i is not None)


def _check_sampling(request: Request) -> None:
    if request.sampling.max_tokens < 1:
        raise InputError(
            f"max_tokens of {request.sampling.max_tokens} in request {request.id!r}",
            expected="1 or more",
            remedy="leave it out, or ask for at least one token",
        )
