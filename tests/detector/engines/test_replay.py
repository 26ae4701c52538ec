"""Packed passes: every row is the one of prompt and response in one plain pass, however they were packed together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundwire.engines import packed, replay
from groundwire.engines.base import Asked
from groundwire.engines.packed import NAME, Pack
from groundwire.engines.padded import PaddedReplay
from groundwire.engines.reader import Reader
from groundwire.engines.replay import PackedReplay, depth
from groundwire.engines.transformers import TransformersEngine
from groundwire.focus import Focus
from tests.detector.tiny import random_scorer, tiny_engine

IDS = st.integers(3, 9)  # few, so that prompts share beginnings and answers are equal by chance
LISTS = st.lists(IDS, max_size=12)
PROMPTS = st.lists(st.tuples(st.lists(IDS, max_size=40), st.lists(LISTS, max_size=5)), max_size=5)
HALVES, WHOLES = packed._halves, packed._wholes


def plain(engine: TransformersEngine, prompt: list[int], response: list[int]) -> Tensor:
    return engine.read([*prompt, *response])[len(prompt) :]


def by_response(engine: TransformersEngine, way: Any, asked: list[Asked]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    for rows, slots in way.rows(asked):
        for i in slots.unique().tolist():
            assert i not in found, "rows of one response came in two passes"
            found[i] = rows[slots == i]
    return found


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS, tokens=st.integers(1, 80), attend=st.sampled_from([HALVES, WHOLES]))
def test_rows_are_those_of_a_plain_pass(
    engine: TransformersEngine, prompts: list[Any], tokens: int, attend: Any
) -> None:
    asked = [Asked(*prompt) for prompt in prompts]
    way = PackedReplay(engine)
    way._tokens = tokens
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_halves", attend)
        found = by_response(engine, way, asked)
    pairs = [(each.prompt, response) for each in asked for response in each.responses]
    assert set(found) == {i for i, (_, response) in enumerate(pairs) if response}
    for i, rows in found.items():
        torch.testing.assert_close(rows, plain(engine, *pairs[i]), atol=1e-4, rtol=1e-4)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=PROMPTS)
def test_what_is_replayed_together_does_not_change_a_score(engine: TransformersEngine, prompts: list[Any]) -> None:
    asked = [Asked(*prompt) for prompt in prompts]
    scorer = random_scorer(engine, "window")
    together = engine.replay(asked, scorer, features=True)
    assert [len(found) for found in together] == [len(each.responses) for each in asked]
    for each, readouts in zip(asked, together, strict=True):
        for response, readout in zip(each.responses, readouts, strict=True):
            ((alone,),) = engine.replay([Asked(each.prompt, [response])], scorer)
            assert readout.rows == len(response)
            assert readout.logit == pytest.approx(alone.logit, abs=1e-4)
            features = readout.features
            assert (features is None) == (not response)
            if features is not None:
                assert features.mean(0) == pytest.approx(readout.mean_features, abs=1e-4)


def test_every_beginning_is_read_once(engine: TransformersEngine) -> None:
    before, way = engine.tokens_read, PackedReplay(engine)
    common, ends = list(range(3, 43)), ([50, 51], [52, 53, 54], [55])
    asked = [Asked([*common, *end], [[60, 61], [62]]) for end in ends]
    by_response(engine, way, asked)
    assert engine.tokens_read - before == 40 + 2 + 3 + 1 + 3 * 3
    before = engine.tokens_read
    by_response(engine, way, [Asked(common, [[60]]), Asked(common[:20], [[60]])])
    assert engine.tokens_read - before == 40 + 2


def test_what_answers_share_is_read_once(engine: TransformersEngine) -> None:
    before, way = engine.tokens_read, PackedReplay(engine)
    responses = [[60, 61, 62, 63], [60, 61, 62], [70], [60, 61, 62, 64, 65], [70]]
    found = by_response(engine, way, [Asked([5, 6], responses)])
    assert engine.tokens_read - before == 2 + 3 + 1 + 2 + 1
    for i, response in enumerate(responses):
        torch.testing.assert_close(found[i], plain(engine, [5, 6], response), atol=1e-4, rtol=1e-4)


def test_a_long_beginning_is_not_held_for_every_prompt_at_once(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "HELD", 2)
    way = PackedReplay(llama)
    way._tokens = 50
    prompts = sorted(tuple([*range(3, 33), 50 + i]) for i in range(7))
    together = list(way._together(prompts))
    assert [prompt for batch in together for prompt in batch] == prompts
    assert max(sum(map(len, batch)) for batch in together) <= 2 * 50


def test_equal_answers_are_read_once(engine: TransformersEngine) -> None:
    scorer = random_scorer(engine, "window")
    engine.replay([Asked([5], [[6]])], scorer)  # so that the way is chosen
    before = engine.tokens_read
    ((one, two, three),) = engine.replay([Asked([5, 6], [[7, 8], [9], [7, 8]])], scorer)
    assert engine.tokens_read - before == 2 + 3
    assert one.logit == three.logit != two.logit


def test_the_prompt_is_read_up_to_the_keys_of_the_last_layer(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = llama.model.model.layers[depth(llama.hookpoint, llama.model)]
    monkeypatch.setattr(last.mlp, "forward", lambda *_: pytest.fail("the last layer went on"))
    way = PackedReplay(llama)
    (prefix,) = way._read([(5, 6, 7)], None)
    assert prefix is not None
    assert prefix.ids == (5, 6, 7)
    assert len(prefix.layers) == depth(llama.hookpoint, llama.model) + 1


def test_both_tiny_models_are_packed(engine: TransformersEngine) -> None:
    assert isinstance(engine._replaying, PackedReplay)
    assert engine.model.config._attn_implementation != NAME


def test_the_library_s_attention_is_back_after_a_pass_that_failed(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = llama.model.config._attn_implementation
    monkeypatch.setattr(llama.model.model.layers[0].mlp, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(PackedReplay(llama).rows([Asked([5], [[6]])]))
    assert llama.model.config._attn_implementation == before


def other_model(kind: str, **options: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "initializer_range": 0.3,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("kind", "options", "way"),
    [
        ("Qwen2", {}, PackedReplay),
        ("Qwen3", {}, PackedReplay),
        ("Mistral", {"sliding_window": None}, PackedReplay),
        ("Mistral", {"sliding_window": 8}, PaddedReplay),
        ("Gemma2", {}, PaddedReplay),
        ("Phimoe", {"sliding_window": 8, "num_local_experts": 2}, PaddedReplay),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, PaddedReplay),
    ],
)
def test_what_cannot_be_packed_is_padded(
    tiny_llama_folder: Path, kind: str, options: dict[str, Any], way: type
) -> None:
    """Sliding windows and capped scores are the library's business; the rows are right either way."""
    reader = tiny_engine(tiny_llama_folder).reader
    engine = TransformersEngine(Reader(other_model(kind, **options), reader.tokenizer, kind, {}, 256), "model.layers.2")
    assert type(engine._replaying) is way
    assert engine.tokens_read == 0
    prompt, responses = list(range(3, 40)), [[50, 51, 52], [60], list(range(70, 90))]
    found = by_response(engine, engine._replaying, [Asked(prompt, responses)])
    for i, response in enumerate(responses):
        torch.testing.assert_close(found[i], plain(engine, prompt, response), atol=1e-4, rtol=1e-4)


def test_half_precision_can_be_packed(llama: TransformersEngine) -> None:
    import copy

    model = copy.deepcopy(llama.model).to(torch.bfloat16)
    engine = TransformersEngine(Reader(model, llama.tokenizer, "half", {}, 256, "bfloat16"), llama.hookpoint)
    assert isinstance(engine._replaying, PackedReplay)


@pytest.mark.parametrize(
    ("hookpoint", "expected"),
    [("model.layers.2", 2), ("model.layers.1.self_attn", 1), ("model.norm", 3), ("model.embed_tokens", 3)],
)
def test_the_depth_of_a_hookpoint(llama: TransformersEngine, hookpoint: str, expected: int) -> None:
    assert depth(hookpoint, llama.model) == expected


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12))
def test_sequences_are_taken_apart_and_put_together_again(sequences: list[list[int]]) -> None:
    """Each token's value is what it and those before it are: shared tokens are shared by those that begin alike."""
    sequences.sort()
    pack = Pack([(ids, None) for ids in sequences], torch.device("cpu"))
    inputs = pack.inputs()
    names = [tuple(ids[: i + 1]) for ids in sequences for i in range(len(ids))]
    numbers = {name: float(i) for i, name in enumerate(dict.fromkeys(names))}
    assert pack.size == len(numbers) == inputs["input_ids"].shape[1]
    x = torch.full((1, 1, pack.size, 1), -1.0)
    for ids, index in zip(sequences, pack.index, strict=True):
        assert inputs["input_ids"][0, index].tolist() == ids
        assert inputs["position_ids"][0, index].tolist() == list(range(len(ids)))
        x[0, 0, index, 0] = torch.tensor([numbers[tuple(ids[: i + 1])] for i in range(len(ids))])
    out = torch.full_like(x, -1.0)
    for block in pack.blocks:
        taken = block.take(x)
        assert taken.shape == (block.count, 1, block.width, 1)
        block.put(out, taken)
    assert torch.equal(out, x)


def test_passes_are_filled_but_not_beyond() -> None:
    todo = [(replay.Answer(i, (*range(10 * i, 10 * i + n),), None), None) for i, n in enumerate([3, 3, 3, 9, 20, 1])]
    assert [[answer.number for answer, _ in batch] for batch in replay._batches(todo, 9)] == [[0, 1, 2], [3], [4], [5]]
    other = [(replay.Answer(0, (1, 2, 3), None), None), (replay.Answer(1, (1, 2, 4), Focus((), (3,), ((),))), None)]
    assert len(list(replay._batches(other, 4))) == 2  # what they begin with they attend to differently
    alike = [(replay.Answer(i, (1, 2, 3, 4, 5, 6, i), None), None) for i in range(5)]
    assert [[answer.number for answer, _ in batch] for batch in replay._batches(alike, 9)] == [[0, 1, 2], [3, 4]]
