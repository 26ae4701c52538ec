"""Answers that exist, through a backend that runs slots as vLLM would, prefix cache included."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from groundwire.engines.base import Asked
from groundwire.engines.reader import Identity
from groundwire.engines.vllm.replay import Prompt, ReplayEngine
from groundwire.engines.vllm.slots import Part, Slots
from groundwire.errors import CaptureError
from groundwire.scoring import Scorer
from tests.detector.engines.vllm.conftest import WIDTH


class Cached:
    """Runs prompts one after the other; what a prompt begins with is read once. broken: rows never come."""

    def __init__(self, scorer: Scorer, *, broken: bool = False) -> None:
        self.slots, self.broken = Slots(scorer, 8), broken
        self.known: list[list[int]] = []
        self.runs: list[int] = []

    def read(self, prompts: Sequence[Prompt]) -> tuple[list[bytes | None], int]:
        total = 0
        for i, prompt in enumerate(prompts):
            cached = 0 if prompt.fresh else max((_shared(prompt.ids, other) for other in self.known), default=0)
            cached = min(cached, len(prompt.ids) - 1)
            self.slots.begin(f"r{i}", prompt.wish, len(prompt.ids))
            if not self.broken:
                rows = torch.tensor([[float(token + k) for k in range(WIDTH)] for token in prompt.ids[cached:]])
                self.slots.step(rows / 8, [Part(f"r{i}", cached, len(prompt.ids) - cached)])
            self.slots.end([f"r{i}"])
            self.known.append(prompt.ids)
            self.runs.append(len(prompt.ids) - cached)
            total += len(prompt.ids) - cached
        return self.slots.take([prompt.take for prompt in prompts]), total


def reading(backend: Cached) -> ReplayEngine:
    return ReplayEngine(backend, Identity("tiny", "tiny", None, {}), "model.layers.2", context=64)


def _shared(one: list[int], other: list[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def test_answers_to_a_prompt_share_its_beginning(scorer):
    backend = Cached(scorer)
    replay = reading(backend)
    prompt = list(range(20))
    asked = [Asked(prompt, [[1, 2, 3], [], [4, 5], [1, 2, 3]]), Asked(prompt[:10], [[7]])]
    found = replay.replay(asked, scorer)
    assert [[readout.rows for readout in each] for each in found] == [[3, 0, 2, 3], [1]]
    assert backend.runs == [23, 2, 1]  # the last prompt is the beginning of the first
    assert replay.tokens_read == sum(backend.runs)
    rows = torch.tensor([[float(token + k) for k in range(WIDTH)] for token in (1, 2, 3)]) / 8
    state = scorer.fold(scorer.new_state(1), scorer.encode(rows), torch.zeros(3, dtype=torch.long))
    assert found[0][0].logit == scorer.finish(state, 0).logit


def test_an_answer_that_is_in_the_cache_is_read_afresh(scorer):
    backend = Cached(scorer)
    replay = reading(backend)
    asked = [Asked([1, 2, 3, 4], [[5, 6, 7, 8]])]
    first = replay.replay(asked, scorer, features=True)[0][0]
    again = replay.replay(asked, scorer, features=True)[0][0]
    assert again.logit == first.logit
    assert first.features is not None
    assert torch.equal(first.features, again.features)
    assert backend.runs == [8, 1, 8]


def test_residual_rows_of_a_sequence(scorer):
    backend = Cached(scorer)
    backend.known.append([1, 2, 3])
    assert reading(backend).read([1, 2, 3]).shape == (3, WIDTH)


def test_rows_that_never_come_are_no_verdict(scorer):
    with pytest.raises(CaptureError, match="has no rows"):
        reading(Cached(scorer, broken=True)).replay([Asked([1], [[2]])], scorer)
