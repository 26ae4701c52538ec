"""Requests that come and go while others decode: each is answered and scored as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from groundwire.engines.generation import Generation
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError, PromptTooLong
from groundwire.scoring import Scorer
from groundwire.types import Request, Sampling, Step
from tests.detector.engines.answers import check_rows, readout_of, requests, run, same_score, text_of, tokens_of
from tests.detector.tiny import HOOKPOINTS, random_scorer


def staggered(engine: TransformersEngine, scorer: Scorer, asked: list[Request], every: int) -> dict[str, list[Step]]:
    """A request joins every so many steps."""
    generation, waiting = engine.begin(scorer), list(asked)
    found: dict[str, list[Step]] = {request.id: [] for request in asked}
    for n in range(1000):
        if waiting and n % every == 0:
            generation.add(waiting.pop(0))
        for name, step in generation.step():
            found[name].append(step)
        if not waiting and not len(generation):
            return found
    raise TimeoutError("generation does not end")


@pytest.fixture(scope="module")
def sliding(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    """A tiny model whose layers look back six tokens: its caches cannot be joined."""
    folder = tmp_path_factory.mktemp("readers") / "tiny-mistral"
    reader = load_reader(tiny_llama_folder)
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    known = {name: getattr(reader.model.config, name) for name in (*same, "num_key_value_heads", "initializer_range")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        MistralForCausalLM(MistralConfig(**known, sliding_window=6, max_position_embeddings=256)).save_pretrained(
            folder
        )
    reader.tokenizer.save_pretrained(folder)
    return TransformersEngine(load_reader(folder), HOOKPOINTS["tiny-llama"])


@pytest.mark.parametrize("every", [1, 3, 40])
def test_who_joins_late_is_answered_and_scored_as_if_alone(
    engine: TransformersEngine, any_scorer: Scorer, every: int
) -> None:
    asked = requests(max_tokens=12)
    together = staggered(engine, any_scorer, asked, every)
    for request in asked:
        alone = run(engine, any_scorer, [request])[request.id]
        assert text_of(together[request.id]) == text_of(alone)
        assert same_score(readout_of(together[request.id]), readout_of(alone))
        check_rows(together[request.id])


def test_caches_that_cannot_be_joined_decode_batch_after_batch(sliding: TransformersEngine) -> None:
    scorer, asked = random_scorer(sliding, "window"), requests(max_tokens=12)
    together = staggered(sliding, scorer, asked, 2)
    for request in asked:
        alone = run(sliding, scorer, [request])[request.id]
        assert text_of(together[request.id]) == text_of(alone)
        assert same_score(readout_of(together[request.id]), readout_of(alone))


def test_a_dropped_request_is_gone_and_the_others_go_on(engine: TransformersEngine, scorer: Scorer) -> None:
    asked, generation = requests(max_tokens=12), engine.begin(scorer)
    for request in asked:
        generation.add(request)
    generation.drop("r2")  # before its first step
    seen: dict[str, list[Step]] = {"r0": [], "r1": []}
    for n in range(100):
        if n == 4:
            generation.drop("r1")
            generation.drop("never heard of")
        for name, step in generation.step():
            seen[name].append(step)
    assert len(generation) == 0
    assert len(seen["r1"]) == 4
    assert same_score(readout_of(seen["r0"]), readout_of(run(engine, scorer, asked[:1])["r0"]))


def test_slots_are_used_again(engine: TransformersEngine, scorer: Scorer) -> None:
    generation, asked = engine.begin(scorer), requests(max_tokens=3)
    alone = run(engine, scorer, asked)
    for n in range(5):
        for request in asked:
            generation.add(replace(request, id=f"{request.id} {n}"))
        if n == 2:
            generation.drop(f"r0 {n}")
        while len(generation):
            for name, step in generation.step():
                if step.readout:
                    assert same_score(step.readout, readout_of(alone[name.split()[0]]))
    assert len(generation._state.count) == len(asked)


def test_an_answer_that_is_not_checked_has_the_same_text_and_no_scores(
    engine: TransformersEngine, scorer: Scorer
) -> None:
    asked = requests(max_tokens=9)
    checked = run(engine, scorer, asked)
    asked[1] = replace(asked[1], check=False)
    mixed = run(engine, scorer, asked)
    for name in ("r0", "r1", "r2"):
        assert text_of(mixed[name]) == text_of(checked[name])
    assert all(step.logit is None and step.readout is None and not len(step.features) for step in mixed["r1"])
    assert same_score(readout_of(mixed["r2"]), readout_of(checked["r2"]))


def test_log_probabilities_are_the_model_s_own_and_stand_beside_their_tokens(
    engine: TransformersEngine, scorer: Scorer
) -> None:
    asked = requests(max_tokens=8, logprobs=3)[1:2]
    steps = run(engine, scorer, asked)["r1"]
    assert all(len(step.logprobs) == len(step.tokens) for step in steps)
    tokens, found = tokens_of(steps), [logprob for step in steps for logprob in step.logprobs]
    assert len(found) == 8
    from groundwire.prompts import render

    prompt = render(engine.tokenizer, asked[0].messages)
    ids = torch.tensor([[*prompt, *(t.id for t in tokens)]])
    with torch.inference_mode():
        logs = engine.model(input_ids=ids).logits[0].float().log_softmax(-1)
    for i, (token, logprob) in enumerate(zip(tokens, found, strict=True)):
        expected = logs[len(prompt) + i - 1]
        assert logprob.logprob == pytest.approx(float(expected[token.id]), abs=1e-3)
        assert [value for _, value in logprob.top] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-3)
        assert logprob.top[0][0] == token.id  # greedy
    own_only = run(engine, scorer, requests(max_tokens=2, logprobs=0)[:1])["r0"]
    assert all(logprob.top == () for step in own_only for logprob in step.logprobs)


def test_held_back_text_brings_its_log_probabilities_when_it_appears(llama: TransformersEngine) -> None:
    scorer = random_scorer(llama)
    text = text_of(run(llama, scorer, requests(max_tokens=12)[1:2])["r1"])
    steps = run(llama, scorer, requests(max_tokens=12, logprobs=0, stop=(text[3:6] + "\x00",))[1:2])["r1"]
    assert any(len(step.tokens) > 1 for step in steps)
    assert [len(step.logprobs) for step in steps] == [len(step.tokens) for step in steps]


def test_what_cannot_be_generated_is_refused_and_leaves_the_others_alone(llama: TransformersEngine) -> None:
    generation, (first, second, third) = llama.begin(random_scorer(llama)), requests(max_tokens=2)
    generation.add(first)
    with pytest.raises(InputError, match="two requests with the id 'r0'"):
        generation.add(first)
    with pytest.raises(PromptTooLong):
        generation.add(replace(second, sampling=Sampling(max_tokens=10_000)))
    with pytest.raises(InputError, match="max_tokens"):
        generation.add(replace(third, sampling=Sampling(max_tokens=0)))
    assert len(generation) == 1
    assert [name for name, _ in generation.step()] == ["r0"]


def test_without_requests_nothing_happens(llama: TransformersEngine) -> None:
    generation = llama.begin(random_scorer(llama))
    assert isinstance(generation, Generation)
    assert generation.step() == []


def test_the_pass_for_last_rows_alone_ends_at_the_hookpoint(
    engine: TransformersEngine, any_scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops, forward = list[bool](), engine.forward

    def counted(*, stop: bool = False, **inputs: Any) -> Any:
        stops.append(stop)
        return forward(stop=stop, **inputs)

    monkeypatch.setattr(engine, "forward", counted)
    short, long = requests(max_tokens=2)[0], replace(requests(max_tokens=4)[0], id="long")
    found = run(engine, any_scorer, [short, long])
    assert [steps[-1].finish_reason for steps in found.values()] == ["length", "length"]
    # The third pass is for the short one's last row and for a token of the other; the fifth for a last row alone.
    assert stops == [False, False, False, False, True]
    assert [len(tokens_of(steps)) == readout_of(steps).rows for steps in found.values()] == [True, True]
