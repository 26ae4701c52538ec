"""Requests that decode together: padding to the left is never seen, and those that end leave the others alone."""

from __future__ import annotations

import pytest
import torch

from groundwire.engines.batch import Answer, Batch
from groundwire.engines.transformers import TransformersEngine
from groundwire.types import Request
from tests.detector.tiny import user

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


def started(engine: TransformersEngine, prompts: list[list[int]]) -> Batch:
    return Batch(engine.forward, engine.model.config, engine.device, prompts)


@pytest.mark.parametrize("stay", [[0, 1, 2], [0, 2], [1]])
def test_a_request_decodes_as_if_alone_when_others_leave(engine: TransformersEngine, stay: list[int]) -> None:
    together, following = started(engine, PROMPTS), [20, 21, 22]
    rows, logits = together.forward()
    for i, prompt in enumerate(PROMPTS):
        alone = started(engine, [prompt])
        for got, expected in zip((rows[i], logits[i]), alone.forward(), strict=True):
            torch.testing.assert_close(got, expected[0], atol=1e-4, rtol=1e-4)
    together.select(stay)
    together.feed([following[i] for i in stay])
    rows, logits = together.forward()
    assert len(rows) == len(stay)
    for place, i in enumerate(stay):
        expected = engine.read([*PROMPTS[i], following[i]])[-1]
        torch.testing.assert_close(rows[place], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", [(PROMPTS[0], PROMPTS[1]), (PROMPTS[1], PROMPTS[0])])
def test_batches_that_join_decode_as_if_alone(engine: TransformersEngine, order: tuple[list[int], list[int]]) -> None:
    first, second = (started(engine, [prompt]) for prompt in order)
    for batch, following in ((first, 20), (second, 21)):
        batch.forward()
        batch.feed([following])
    assert first.joinable
    first.join(second)
    for tail in ([], [30], [30, 31]):
        rows, logits = first.forward()
        for row, prompt, following in zip(rows, order, (20, 21), strict=True):
            expected = engine.read([*prompt, following, *tail])[-1]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
        assert len(logits) == 2
        first.feed([30 + len(tail)] * 2)


def test_padding_leaves_with_the_request_that_needed_it(engine: TransformersEngine) -> None:
    batch = started(engine, PROMPTS)
    batch.forward()
    batch.select([1])
    assert batch.mask.shape[1] == len(PROMPTS[1]) == batch.cache.get_seq_length()
    batch.feed([21])
    rows, _ = batch.forward()
    torch.testing.assert_close(rows[0], engine.read([*PROMPTS[1], 21])[-1], atol=1e-4, rtol=1e-4)


def test_rows_are_released_when_their_tokens_are_visible(engine: TransformersEngine) -> None:
    answer = Answer.begin(Request("a", user("one")), (1,), 0, engine.tokenizer, engine.device)
    answer.pending = [torch.full((2,), float(i)) for i in range(3)]
    assert answer.release(2).shape == (0, 2)
    answer.visible = 2
    assert answer.release(2).tolist() == [[0, 0], [1, 1]]
    assert answer.release(2).shape == (0, 2)
    answer.visible = 9
    assert answer.release(2).tolist() == [[2, 2]]


def test_a_pass_may_end_at_the_hookpoint(engine: TransformersEngine) -> None:
    rows, logits = started(engine, PROMPTS).forward(stop=True)
    torch.testing.assert_close(rows, started(engine, PROMPTS).forward()[0])
    assert logits.shape == (len(PROMPTS), 0)
