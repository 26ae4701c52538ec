"""An adapter is active on the answer's tokens alone: prompts are the base model's, however they come to be known."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundwire.adapter import Adapter
from groundwire.engines.base import Adaptable, Asked
from groundwire.engines.padded import PaddedReplay
from groundwire.engines.replay import PackedReplay
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError
from groundwire.prompts import render
from groundwire.types import Request, Sampling
from tests.detector.engines.answers import QUESTIONS, requests, run, text_of, tokens_of
from tests.detector.tiny import random_adapter, random_scorer, tiny_engine, user

IDS = st.integers(3, 9)  # few, so that prompts share beginnings and answers are equal by chance
LISTS = st.lists(IDS, max_size=12)
PROMPTS = st.lists(st.tuples(st.lists(IDS, max_size=30), st.lists(LISTS, max_size=4)), max_size=4)


@pytest.fixture(scope="module")
def reading(llama: TransformersEngine) -> TransformersEngine:
    return llama.adapted(random_adapter(llama))


@pytest.fixture(scope="module")
def merged(llama: TransformersEngine) -> Any:
    """The model with the adapter added into its weights: active on every token, without a hook."""
    model, adapter = copy.deepcopy(llama.model), random_adapter(llama)
    for path, (a, b) in adapter.weights.items():
        model.get_submodule(path).weight.data += adapter.scale * b @ a
    return model


def by_hand(llama: TransformersEngine, merged: Any, prompt: list[int], response: list[int]) -> Tensor:
    """The prompt by the base model into the library's own cache, the response behind it by the merged one."""
    from transformers import DynamicCache

    cache = DynamicCache(config=llama.model.config)
    with torch.inference_mode():
        if prompt:
            llama.model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
        states = merged(input_ids=torch.tensor([response]), past_key_values=cache, output_hidden_states=True)
    return states.hidden_states[3][0]


def rows_of(passes: Any) -> dict[int, Tensor]:
    return {i: rows[slots == i] for rows, slots in passes for i in slots.unique().tolist()}


def close(found: dict[int, Tensor], expected: dict[int, Tensor]) -> None:
    assert set(found) == set(expected)
    for i, rows in expected.items():
        torch.testing.assert_close(found[i], rows, atol=1e-4, rtol=1e-4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, tokens=st.integers(1, 80), way=st.sampled_from([PackedReplay, PaddedReplay]))
def test_prompts_are_the_base_model_s_and_answers_the_adapted_one_s(
    llama: TransformersEngine, reading: TransformersEngine, merged: Any, prompts: list[Any], tokens: int, way: Any
) -> None:
    asked = [Asked(*prompt) for prompt in prompts]
    replay = way(reading)
    replay._tokens = tokens
    found = rows_of(replay.rows(asked))
    pairs = [(each.prompt, response) for each in asked for response in each.responses]
    close(found, {i: by_hand(llama, merged, *pair) for i, pair in enumerate(pairs) if pair[1]})


def test_an_adapter_of_zeros_changes_nothing(llama: TransformersEngine) -> None:
    asked = [Asked([5, 6, 7], [[8, 9], [8, 10, 11]]), Asked([], [[4, 5]])]
    zeros = llama.adapted(random_adapter(llama, size=0.0))
    close(rows_of(zeros.replay_rows(asked)), rows_of(llama.replay_rows(asked)))


def test_a_response_alone_scores_as_together(llama: TransformersEngine, reading: TransformersEngine) -> None:
    scorer = random_scorer(llama, "window")
    asked = [Asked([5, 6, 7], [[8, 9], [8, 10, 11], []]), Asked([5, 6], [[7, 8, 9]]), Asked([], [[4, 5]])]
    together, base = reading.replay(asked, scorer), llama.replay(asked, scorer)
    for each, readouts, plain in zip(asked, together, base, strict=True):
        for response, readout, other in zip(each.responses, readouts, plain, strict=True):
            ((alone,),) = reading.replay([Asked(each.prompt, [response])], scorer)
            assert readout.logit == pytest.approx(alone.logit, abs=1e-4)
            assert (readout.logit != other.logit) == bool(response)


def test_generation_and_plain_reading_know_no_adapter(llama: TransformersEngine, reading: TransformersEngine) -> None:
    scorer, asked = random_scorer(llama, "window"), requests(max_tokens=10)
    ours, plain = run(reading, scorer, asked), run(llama, scorer, asked)
    for name, steps in ours.items():
        assert tokens_of(steps) == tokens_of(plain[name])
        assert [step.logit for step in steps] == [step.logit for step in plain[name]]
    assert torch.equal(reading.read([5, 6, 7]), llama.read([5, 6, 7]))
    assert reading.adapter is not None
    assert llama.adapter is None


# -- prompts that were generated from -----------------------------------------------------------------------------


@pytest.mark.parametrize("every", [0, 1, 3])
def test_what_generation_kept_of_a_prompt_is_the_prompt(
    llama: TransformersEngine, reading: TransformersEngine, every: int
) -> None:
    """Requests of several lengths, which join (`every` so many steps, or at once) and end at different steps."""
    generation, ended = llama.begin(random_scorer(llama, "window")), 0
    limits = (9, 3, 6, 1)
    waiting = [Request(f"r{i}", user(q), Sampling(max_tokens=limits[i])) for i, q in enumerate((*QUESTIONS, "Why?"))]
    by_id, ids = {request.id: request for request in waiting}, {request.id: [] for request in waiting}
    reading.replay([Asked([5], [[6]])], random_scorer(llama))  # so that the way is chosen
    for n in range(100):
        while waiting and (not every or n % every == 0):
            generation.add(waiting.pop(0))
            if every:
                break
        for name, step in generation.step():
            ids[name] += [token.id for token in step.tokens]
            assert (step.prompt is None) == (step.finish_reason is None)
            if step.finish_reason is not None and ids[name]:
                prompt, ended = render(llama.tokenizer, by_id[name].messages), ended + 1
                assert step.prompt.ids == tuple(prompt)
                before = reading.tokens_read
                known = rows_of(reading.replay_rows([Asked(prompt, [ids[name]], step.prompt)]))
                assert reading.tokens_read - before == len(ids[name])
                close(known, rows_of(reading.replay_rows([Asked(prompt, [ids[name]])])))
        if not waiting and not len(generation):
            break
    assert ended == 4


def test_known_and_unknown_prompts_are_read_together(llama: TransformersEngine, reading: TransformersEngine) -> None:
    (request, *_), scorer = requests(max_tokens=4), random_scorer(llama, "window")
    last = run(llama, scorer, [request])["r0"][-1]
    prompt = render(llama.tokenizer, request.messages)
    plain = [Asked([5, 6], [[7], []]), Asked(prompt, [[50, 51], [], [50, 52]]), Asked([5, 6, 7], [[8, 9]])]
    mixed = [plain[0], replace(plain[1], known=last.prompt), plain[2]]
    close(rows_of(reading.replay_rows(mixed)), rows_of(reading.replay_rows(plain)))
    close(rows_of(PaddedReplay(reading).rows(mixed)), rows_of(reading.replay_rows(plain)))  # which cannot use it


def test_nothing_is_kept_where_nobody_asks_or_the_cache_forgets(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, asked = random_scorer(llama, "window"), requests(max_tokens=4)
    unchecked = run(llama, scorer, [replace(request, check=False) for request in asked])
    monkeypatch.setattr("groundwire.engines.batch.growing_layers", lambda cache: None)
    forgetful = run(llama, scorer, asked)
    for steps in (*unchecked.values(), *forgetful.values()):
        assert text_of(steps)
        assert all(step.prompt is None for step in steps)


# -- making one ---------------------------------------------------------------------------------------------------


def test_an_adapter_of_another_model_is_refused_when_the_engine_is_made(llama: TransformersEngine) -> None:
    new, hooks = random_adapter(llama), sum(len(m._forward_hooks) for m in llama.model.modules())
    pair = new.weights["model.layers.0.mlp.up_proj"]
    deeper = Adapter({**new.weights, "model.layers.7.mlp.up_proj": pair}, new.alpha)
    other = Adapter({**new.weights, "model.layers.0.mlp.down_proj": pair}, new.alpha)
    with pytest.raises(CaptureError, match=r"no submodule 'model\.layers\.7"):
        llama.adapted(deeper)
    with pytest.raises(CaptureError, match=r"'model\.layers\.0\.mlp\.down_proj'"):
        TransformersEngine(llama.reader, llama.hookpoint, other)
    assert sum(len(m._forward_hooks) for m in llama.model.modules()) == hooks


def test_making_one_does_not_touch_a_pass_under_way(llama: TransformersEngine) -> None:
    made: list[TransformersEngine] = []
    hooks = sum(len(m._forward_hooks) for m in llama.model.modules())
    thread = Thread(target=lambda: made.append(llama.adapted(random_adapter(llama))))
    with llama.reader.lock:
        thread.start()
        thread.join(0.1)
        assert made == []
        assert sum(len(m._forward_hooks) for m in llama.model.modules()) == hooks
    thread.join(60)
    assert isinstance(made[0], Adaptable)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_the_adapter_has_the_type_of_the_model_s_numbers(
    llama: TransformersEngine, reading: TransformersEngine, tiny_llama_folder: Path, dtype: str
) -> None:
    engine = tiny_engine(tiny_llama_folder, dtype=dtype)
    asked = [Asked([5, 6, 7], [[8, 9, 10]])]
    ((rows, _),) = engine.adapted(random_adapter(llama)).replay_rows(asked)
    ((expected, _),) = reading.replay_rows(asked)
    ((base, _),) = llama.replay_rows(asked)
    assert rows.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    assert (rows.float() - expected).norm() < 0.3 * (base - expected).norm()
