"""Answers that attend to parts of their prompt: every way of reading gives what the library's own attention gives under
a mask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundwire.capture import capture
from groundwire.engines import packed
from groundwire.engines.base import Asked
from groundwire.engines.packed import Pack, packing
from groundwire.engines.padded import PaddedReplay
from groundwire.engines.replay import PackedReplay
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError
from groundwire.focus import Focus
from tests.detector.tiny import random_scorer

IDS = st.integers(3, 6)  # few, so that answers share beginnings by chance
FRAMES = st.sampled_from([((0, 3),), ((0, 1), (3, 4), (11, 12))])
PLACES = st.lists(st.integers(4, 11), max_size=6, unique=True).map(sorted)


@st.composite
def drawn(draw: st.DrawFn) -> Any:
    """Prompts with their answers; `focused` makes a `Focus` of what they see (type checks draw at random)."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        prompt = draw(st.lists(IDS, min_size=12, max_size=12))
        answers = {}
        for ids in draw(st.lists(st.lists(IDS, min_size=1, max_size=8).map(tuple), min_size=1, max_size=4)):
            cuts = draw(st.lists(st.integers(1, len(ids)), max_size=2, unique=True).map(sorted))
            ends = tuple(dict.fromkeys([*cuts, len(ids)]))
            shown = []
            for _ in ends:
                places = draw(PLACES)
                ranges = tuple(zip(places[::2], places[1::2], strict=False))
                shown.append(draw(st.sampled_from([ranges, ranges, None])))
            answers[ids] = draw(st.sampled_from([(draw(FRAMES), ends, tuple(shown)), None]))
        found.append((prompt, list(answers.items())))
    return found


def focused(found: Any) -> list[tuple[list[int], list[tuple[tuple[int, ...], Focus | None]]]]:
    return [(prompt, [(ids, Focus(*seen) if seen else None) for ids, seen in answers]) for prompt, answers in found]


def by_hand(engine: TransformersEngine, prompt: list[int], ids: tuple[int, ...], focus: Focus | None) -> Tensor:
    """The answer behind the library's own cache of the prompt, under a mask."""
    from transformers import DynamicCache

    mask = torch.full((len(ids), len(prompt) + len(ids)), -torch.inf)
    mask[:, len(prompt) :] = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    runs = zip(focus.ends, focus.shown, strict=True) if focus else [(len(ids), None)]
    first = 0
    for last, shown in runs:
        for start, end in ((0, len(prompt)),) if focus is None or shown is None else (*focus.frame, *shown):
            mask[first:last, start:end] = 0
        first = last
    cache = DynamicCache(config=engine.model.config)
    with torch.inference_mode():
        engine.model(input_ids=torch.tensor([prompt]), past_key_values=cache, use_cache=True)
        states = engine.model(
            input_ids=torch.tensor([ids]),
            past_key_values=cache,
            attention_mask=mask[None, None],
            output_hidden_states=True,
        )
    return states.hidden_states[3][0]


def asked_of(given_: Any) -> list[Asked]:
    return [
        Asked(prompt, [ids for ids, _ in answers], focus={ids: f for ids, f in answers if f is not None})
        for prompt, answers in given_
    ]


@pytest.mark.parametrize("way", ["_halves", "_wholes"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=drawn())
def test_a_replay_gives_what_a_mask_gives(llama: TransformersEngine, way: str, found: Any) -> None:
    asked = focused(found)
    expected = [by_hand(llama, prompt, ids, focus) for prompt, answers in asked for ids, focus in answers]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_halves", getattr(packed, way))
        passes = list(PackedReplay(llama).rows(asked_of(asked)))
    read = {i: rows[slots == i] for rows, slots in passes for i in slots.unique().tolist()}
    assert set(read) == set(range(len(expected)))
    for i, rows in enumerate(expected):
        torch.testing.assert_close(read[i], rows, atol=1e-4, rtol=1e-4)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=drawn())
def test_so_does_a_pass_with_gradients(llama: TransformersEngine, found: Any) -> None:
    asked = focused(found)
    way = PackedReplay(llama)
    sequences, focus, expected = [], [], []
    for prompt, answers in asked:
        (prefix,) = way._read([tuple(prompt)], None)
        for ids, own in answers:
            sequences.append((ids, prefix))
            focus.append(own)
            expected.append(by_hand(llama, prompt, ids, own))
    pack = Pack(sequences, llama.device, focus=focus)
    with (
        torch.enable_grad(),
        packing(llama.model),
        capture(llama.model, llama.hookpoint, stop=True, learn=True) as hook,
    ):
        rows, _ = hook.run(llama.model, **pack.inputs())
    torch.testing.assert_close(rows[0][torch.cat(pack.index)].detach(), torch.cat(expected), atol=1e-4, rtol=1e-4)


def test_what_is_not_seen_changes_nothing(llama: TransformersEngine) -> None:
    """The rows of an answer do not depend on keys and values it does not attend to."""
    (prefix,) = PackedReplay(llama)._read([tuple(range(3, 15))], None)
    assert prefix is not None
    noisy = replace(prefix, layers=[(k.clone(), v.clone()) for k, v in prefix.layers])
    for keys, values in noisy.layers:
        keys[:, :, 4:9] = 7.0
        values[:, :, 4:9] = -7.0
    focus, rows = Focus(((0, 3),), (2, 5), (((3, 4), (9, 12)), ())), []
    for each in (prefix, noisy):
        pack = Pack([((5, 6, 7, 8, 9), each)], llama.device, focus=[focus])
        with packing(llama.model), capture(llama.model, llama.hookpoint, stop=True) as hook:
            rows.append(hook.run(llama.model, **pack.inputs())[0])
    torch.testing.assert_close(*rows, atol=1e-6, rtol=1e-6)


def test_equal_answers_are_read_once(llama: TransformersEngine) -> None:
    focus = Focus(((0, 4),), (3,), ((),))
    once, before = Asked(range(3, 15), [(5, 6, 7)], focus={(5, 6, 7): focus}), llama.tokens_read
    twice = replace(once, responses=[(5, 6, 7), [5, 6, 7]])
    scorer = random_scorer(llama)
    ((one,),) = llama.replay([once], scorer)
    single = llama.tokens_read - before
    ((a, b),) = llama.replay([twice], scorer)
    assert llama.tokens_read - before == 2 * single
    assert a.logit == b.logit == pytest.approx(one.logit, abs=1e-4)
    ((whole,),) = llama.replay([replace(once, focus={})], scorer)
    assert abs(whole.logit - one.logit) > 1e-4


def test_a_model_that_must_be_padded_refuses(llama: TransformersEngine) -> None:
    asked = Asked(range(3, 9), [(5, 6)], focus={(5, 6): Focus(((0, 2),), (2,), ((),))})
    with pytest.raises(CaptureError, match="attend to parts of their prompt"):
        list(PaddedReplay(llama).rows([asked]))
