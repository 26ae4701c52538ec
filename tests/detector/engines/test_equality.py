"""Decode and prefill, alone and in any batch, give the same score; replayed rows are the model's hidden states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwire.engines import padded
from groundwire.engines.base import Asked
from groundwire.engines.reader import Reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.prompts import render, tokenize_response
from groundwire.scoring import Scorer
from tests.detector.engines.answers import (
    QUESTIONS,
    TOLERANCE,
    check_rows,
    readout_of,
    replay,
    requests,
    run,
    same_score,
    tokens_of,
)
from tests.detector.tiny import random_scorer, user

RESPONSES = (
    "It was built in 1889.",
    "The passages do not say who built it; the keeper's log says 41 metres.",
    "No",
    "",
    "Nobody knows ☃ 東京",
)


def test_generation_and_replay_give_the_same_score(engine: TransformersEngine, any_scorer: Scorer) -> None:
    asked = requests(max_tokens=20)
    for request, steps in zip(asked, run(engine, any_scorer, asked).values(), strict=True):
        ids = [t.id for t in tokens_of(steps)]
        (again,) = replay(engine, render(engine.tokenizer, request.messages), [ids], any_scorer)
        assert same_score(readout_of(steps), again)
        torch.testing.assert_close(readout_of(steps).token_logits, again.token_logits, atol=TOLERANCE, rtol=0)


def test_prompts_of_other_lengths_in_the_batch_change_nothing(engine: TransformersEngine, any_scorer: Scorer) -> None:
    asked = requests(max_tokens=20)
    together = run(engine, any_scorer, asked)
    for request in asked:
        alone = run(engine, any_scorer, [request])[request.id]
        assert [t.id for t in tokens_of(alone)] == [t.id for t in tokens_of(together[request.id])]
        assert same_score(readout_of(alone), readout_of(together[request.id]))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, len(RESPONSES) - 1), min_size=1, max_size=6), budget=st.integers(1, 400))
def test_what_shares_a_replay_does_not_change_a_score(
    engine: TransformersEngine, any_scorer: Scorer, chosen: list[int], budget: int
) -> None:
    prompt = render(engine.tokenizer, user(QUESTIONS[1]))
    ids = [[t.id for t in tokenize_response(engine.tokenizer, response)] for response in RESPONSES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(padded, "REPLAY_TOKENS", budget)
        patch.setattr(engine._replaying, "_tokens", budget, raising=False)
        together = replay(engine, prompt, [ids[i] for i in chosen], any_scorer)
    for i, readout in zip(chosen, together, strict=True):
        (alone,) = replay(engine, prompt, [ids[i]], any_scorer)
        assert same_score(readout, alone)
        assert readout.rows == len(ids[i])


def test_replayed_rows_are_the_hidden_states_of_prompt_and_response_in_one_pass(engine: TransformersEngine) -> None:
    prompt = render(engine.tokenizer, user(QUESTIONS[1]))
    responses = [[t.id for t in tokenize_response(engine.tokenizer, response)] for response in RESPONSES]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(responses))}
    for rows, slots in engine.replay_rows([Asked(prompt, responses)]):
        for i in slots.unique().tolist():
            found[i].append(rows[slots == i])
    layer = int(engine.hookpoint.rsplit(".", 1)[-1])
    for i, response in enumerate(responses):
        if not response:
            assert found[i] == []
            continue
        with torch.inference_mode():
            states = engine.model(torch.tensor([[*prompt, *response]]), output_hidden_states=True).hidden_states
        expected = states[layer + 1][0, len(prompt) :]
        torch.testing.assert_close(torch.cat(found[i]), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(engine.read([*prompt, *response])[len(prompt) :], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("hookpoint", ["model.embed_tokens", "model.layers.0", "model.layers.1.self_attn"])
def test_any_submodule_may_be_the_hookpoint(llama: TransformersEngine, hookpoint: str) -> None:
    """Layers above it, and the attention of the one it lies in, have no keys when the prompt's are copied."""
    engine = TransformersEngine(llama.reader, hookpoint)
    scorer, prompt = random_scorer(engine), render(engine.tokenizer, user(QUESTIONS[1]))
    together = replay(engine, prompt, [[50, 51, 52], [60]], scorer)
    steps = run(engine, scorer, requests(max_tokens=6)[1:2])["r1"]
    ids = [t.id for t in tokens_of(steps)]
    assert same_score(together[1], replay(engine, prompt, [[60]], scorer)[0])
    assert same_score(readout_of(steps), replay(engine, prompt, [ids], scorer)[0])


@pytest.mark.model
def test_the_real_model_scores_alike_in_generation_and_replay(reader: Reader) -> None:
    engine = TransformersEngine(reader, "model.layers.18")
    scorer, asked = random_scorer(engine, "window"), requests(max_tokens=10)[:2]
    for request, steps in zip(asked, run(engine, scorer, asked).values(), strict=True):
        check_rows(steps)
        ids = [t.id for t in tokens_of(steps)]
        (again,) = replay(engine, render(engine.tokenizer, request.messages), [ids], scorer)
        assert same_score(readout_of(steps), again)
