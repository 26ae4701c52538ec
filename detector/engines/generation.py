"""Requests that decode together in the Hugging Face engine; they come and go between steps.

A newcomer's prompt is read in a pass of its own, then its keys and values join those of the others. Models whose caches
cannot be joined (sliding windows) decode batch after batch instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from groundwire.engines.base import check_new
from groundwire.engines.batch import Answer, Batch
from groundwire.engines.decoding import log_probability, sample
from groundwire.engines.packed import Prefix, depth
from groundwire.prompts import render
from groundwire.scoring import Scorer
from groundwire.types import FinishReason, Readout, Request, Step, Token, TokenLogprob

if TYPE_CHECKING:
    from groundwire.engines.transformers import TransformersEngine

Move = tuple[str, tuple[Token, ...], FinishReason | None]


class Generation:
    """See `engines.base.Generation`."""

    def __init__(self, engine: TransformersEngine, scorer: Scorer) -> None:
        self._engine, self._scorer = engine, scorer
        self._device = scorer.encoder.weight.device
        self._state, self._free = scorer.new_state(0, self._device), list[int]()
        self._new: list[tuple[Answer, list[int]]] = []
        self._under_way: list[tuple[Batch, list[Answer]]] = []
        self._depth = depth(engine.hookpoint, engine.model)

    def __len__(self) -> int:
        return len(self._new) + len(self._answers())

    def add(self, request: Request) -> int:
        """See `engines.base.Generation.add`."""
        check_new(request, [answer.request.id for answer in self._all()])
        prompt = render(self._engine.tokenizer, request.messages)
        self._engine.check_length(len(prompt), request.sampling.max_tokens)
        answer = Answer.begin(request, tuple(prompt), self._slot(), self._engine.tokenizer, self._engine.device)
        self._new.append((answer, prompt))
        return len(prompt)

    def drop(self, request_id: str) -> None:
        """See `engines.base.Generation.drop`."""
        self._free += [answer.slot for answer in self._all() if answer.request.id == request_id]
        self._new = [(answer, prompt) for answer, prompt in self._new if answer.request.id != request_id]
        self._keep(lambda answer: answer.request.id != request_id)

    def step(self) -> list[tuple[str, Step]]:
        """See `engines.base.Generation.step`."""
        if self._new:
            batch = Batch(
                self._engine.forward, self._engine.model.config, self._engine.device, [p for _, p in self._new]
            )
            self._under_way.append((batch, [answer for answer, _ in self._new]))
            self._new = []
        answers = self._answers()
        if not answers:
            return []
        logits = self._forward(answers)
        steps = self._steps(answers, logits)
        over = {answer.slot for answer, step in zip(answers, steps, strict=True) if step.finish_reason is not None}
        self._free += over
        self._keep(lambda answer: answer.slot not in over)
        for batch, members in self._under_way:
            batch.feed([answer.ids[-1] for answer in members])
        self._join()
        return [(answer.request.id, step) for answer, step in zip(answers, steps, strict=True)]

    def _forward(self, answers: Sequence[Answer]) -> list[Tensor]:
        """One pass; logits `[vocabulary]` of each. Features of the tokens that were inputs wait in their answers."""
        start = perf_counter()
        # Where all of a batch only want their last token's row, the pass need not go on from there.
        passes = [batch.forward(stop=all(a.closing for a in members)) for batch, members in self._under_way]
        rows, logits = torch.cat([rows for rows, _ in passes]), [one for _, found in passes for one in found]
        spent = perf_counter() - start
        # The first pass of an answer brought its prompt's last row only.
        due = [i for i, answer in enumerate(answers) if answer.ids and answer.request.check]
        if due:
            features = self._scorer.encode(rows[due].to(self._device))
            for i, row in zip(due, features, strict=True):
                answers[i].pending.append(row)
        encoding = perf_counter() - start - spent
        for i, answer in enumerate(answers):
            answer.forward_seconds += spent / len(answers)
            answer.check_seconds += encoding / len(due) if i in due else 0.0
        return logits

    def _steps(self, answers: Sequence[Answer], logits: Sequence[Tensor]) -> list[Step]:
        """Sample and decode for every answer; fold the features of tokens that are visible by now, all at once."""
        seen = [answer.visible for answer in answers]
        moves = [self._advance(answer, logits[i]) for i, answer in enumerate(answers)]
        start = perf_counter()
        ready = [answer.release(self._scorer.terms) for answer in answers]
        if due := [rows for rows in ready if len(rows)]:
            slots = [answer.slot for answer, rows in zip(answers, ready, strict=True) for _ in rows]
            self._scorer.fold(self._state, torch.cat(due), torch.tensor(slots, device=self._device))
        steps = []
        for answer, before, (text, tokens, over), rows in zip(answers, seen, moves, ready, strict=True):
            logit = self._scorer.logit(self._state, answer.slot) if answer.folded and answer.request.running else None
            readout = self._scorer.finish(self._state, answer.slot) if over and answer.request.check else None
            logprobs = tuple(answer.logprobs[before : before + len(tokens)])
            prompt = self._prompt(answer) if readout is not None else None
            steps.append(Step(text, tokens, rows, logit, over, readout, logprobs, prompt))
        share = (perf_counter() - start) / len(answers)
        for i, (answer, step) in enumerate(zip(answers, steps, strict=True)):
            answer.check_seconds += share
            if step.readout:
                steps[i] = replace(step, readout=timed(step.readout, answer.forward_seconds, answer.check_seconds))
        return steps

    def _prompt(self, answer: Answer) -> Prefix | None:
        """The keys and values of an answer's prompt, for those who read the answer again."""
        for batch, members in self._under_way:
            for place, member in enumerate(members):
                if member is answer:
                    return batch.prefix(place, answer.prompt, self._depth)
        return None

    def _advance(self, answer: Answer, logits: Tensor) -> Move:
        """Sample the next token; return what became visible and, where no more pass is due, why the answer ended."""
        if answer.closing:
            return "", (), answer.closing
        sampling = answer.request.sampling
        token_id = sample(logits, sampling, answer.generator)
        if token_id in self._engine.end_ids:
            text, tokens = answer.stream.close()
            answer.visible += len(tokens)
            return text, tokens, "stop"
        answer.ids.append(token_id)
        if sampling.logprobs is not None:
            answer.logprobs.append(TokenLogprob(*log_probability(logits, token_id, sampling.logprobs)))
        text, tokens = answer.stream.push(token_id)
        if answer.stream.stopped:
            answer.closing = "stop"
        elif len(answer.ids) >= sampling.max_tokens:
            answer.closing = "length"
            rest, more = answer.stream.close()
            text, tokens = text + rest, tokens + more
        answer.visible += len(tokens)
        # The last token was not an input yet: one more pass brings its row, unless nobody asks for it.
        complete = not answer.request.check or answer.visible <= answer.folded + len(answer.pending)
        return text, tokens, answer.closing if complete else None

    def _keep(self, stays: Callable[[Answer], bool]) -> None:
        """Let every answer leave that does not stay."""
        left = []
        for batch, members in self._under_way:
            places = [i for i, answer in enumerate(members) if stays(answer)]
            if places:
                batch.select(places)
                left.append((batch, [members[i] for i in places]))
        self._under_way = left

    def _join(self) -> None:
        """One batch of all, where the caches allow it."""
        if len(self._under_way) > 1 and all(batch.joinable for batch, _ in self._under_way):
            (first, answers), *others = self._under_way
            for batch, members in others:
                first.join(batch)
                answers = answers + members
            self._under_way = [(first, answers)]

    def _slot(self) -> int:
        if not self._free:
            self._free = [len(self._state.count)]
            self._state = self._state.extended(self._scorer.new_state(1, self._device))
        slot = self._free.pop()
        self._state.reset(slot)
        return slot

    def _answers(self) -> list[Answer]:
        return [answer for _, members in self._under_way for answer in members]

    def _all(self) -> list[Answer]:
        return [answer for answer, _ in self._new] + self._answers()


def timed(readout: Readout, forward: float, check: float) -> Readout:
    """The readout with the seconds it took."""
    return replace(readout, forward_seconds=forward, check_seconds=check)
