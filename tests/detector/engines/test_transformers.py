"""Generation and replay over tiny random models: same rows, same scores, whatever shares the batch; no hook stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwire.calibration import sigmoid
from groundwire.engines import transformers as module
from groundwire.engines.reader import Reader, load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.prompts import render, tokenize_response
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Sampling, Step, Token
from tests.detector.tiny import HOOKPOINTS, random_scorer, tiny_engine, user

TOLERANCE = 1e-3  # in score: what docs/architecture.md promises between decode and prefill
QUESTIONS = (
    "Who?",
    "Passage 1: The lighthouse was finished in 1889. Question: Who built the lighthouse?",
    "It is high",
)
RESPONSES = (
    "It was built in 1889.",
    "The passages do not say who built it; the keeper's log says 41 metres.",
    "No",
    "",
    "Nobody knows ☃ 東京",
)


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_gpt2_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    """Shared: a test that changes it puts it back."""
    return tiny_engine(folder)


@pytest.fixture(scope="module")
def llama(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture(scope="module")
def scorer(engine: TransformersEngine) -> Scorer:
    return random_scorer(engine, "window")


@pytest.fixture(scope="module", params=["max", "window"])
def any_scorer(request: pytest.FixtureRequest, engine: TransformersEngine) -> Scorer:
    return random_scorer(engine, request.param)


def requests(*, questions: Sequence[str] = QUESTIONS, **sampling: Any) -> list[Request]:
    return [Request(f"r{i}", user(question), Sampling(**sampling)) for i, question in enumerate(questions)]


def run(engine: TransformersEngine, scorer: Scorer, asked: Sequence[Request]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {request.id: [] for request in asked}
    for name, step in engine.generate(asked, scorer):
        found[name].append(step)
    return found


def tokens_of(steps: Sequence[Step]) -> list[Token]:
    return [token for step in steps for token in step.tokens]


def readout_of(steps: Sequence[Step]) -> Readout:
    assert steps[-1].readout is not None
    return steps[-1].readout


def text_of(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


def same_score(a: Readout, b: Readout) -> bool:
    return a.rows == b.rows and abs(sigmoid(a.logit) - sigmoid(b.logit)) < TOLERANCE


def hooks(engine: TransformersEngine) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in engine.model.modules())


def check_rows(steps: Sequence[Step]) -> None:
    """What holds for every finished answer, however it ended."""
    tokens, text, readout = tokens_of(steps), text_of(steps), readout_of(steps)
    assert readout.rows == len(tokens) == sum(len(step.features) for step in steps)
    assert [t.start for t in tokens] == sorted(t.start for t in tokens)
    assert all(0 <= t.start <= t.end <= len(text) for t in tokens)
    assert steps[-1].logit == pytest.approx(readout.logit) or not tokens
    assert all(step.finish_reason is None and step.readout is None for step in steps[:-1])
    assert readout.finite


# -- generation ---------------------------------------------------------------------------------------------------


def test_greedy_is_what_the_model_itself_generates(engine: TransformersEngine) -> None:
    asked = requests(max_tokens=12)[1]
    steps = run(engine, random_scorer(engine), [asked])["r1"]
    prompt = torch.tensor([render(engine.tokenizer, asked.messages)])
    own = engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    assert [t.id for t in tokens_of(steps)] == own[0, prompt.shape[1] :].tolist()


def test_an_answer_that_ends_by_length_has_a_row_for_its_last_token(
    engine: TransformersEngine, any_scorer: Scorer
) -> None:
    for steps in run(engine, any_scorer, requests(max_tokens=9)).values():
        check_rows(steps)
        assert steps[-1].finish_reason == "length"
        assert len(tokens_of(steps)) == 9


def test_an_answer_of_one_token(engine: TransformersEngine, scorer: Scorer) -> None:
    for steps in run(engine, scorer, requests(max_tokens=1)).values():
        check_rows(steps)
        assert readout_of(steps).rows == 1


def test_the_end_token_is_never_a_row(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, asked = random_scorer(engine), requests(max_tokens=12)
    full = {name: [t.id for t in tokens_of(steps)] for name, steps in run(engine, scorer, asked).items()}
    end = full["r1"][5]
    monkeypatch.setattr(engine.model.generation_config, "eos_token_id", [end, 1])
    for name, steps in run(TransformersEngine(engine.reader, engine.hookpoint), scorer, asked).items():
        check_rows(steps)
        before = full[name][: full[name].index(end)] if end in full[name] else full[name]
        assert [t.id for t in tokens_of(steps)] == before
        assert steps[-1].finish_reason == ("stop" if end in full[name] else "length")


def test_a_model_without_generation_settings_ends_at_the_tokenizer_s_end(folder: Path, scorer: Scorer) -> None:
    reader, asked = load_reader(folder), requests(max_tokens=6)[1:2]
    full = [t.id for t in tokens_of(run(TransformersEngine(reader, HOOKPOINTS[folder.name]), scorer, asked)["r1"])]
    reader.model.generation_config = None
    reader.tokenizer.eos_token = reader.tokenizer.convert_ids_to_tokens(full[3])
    steps = run(TransformersEngine(reader, HOOKPOINTS[folder.name]), scorer, asked)["r1"]
    check_rows(steps)
    assert [t.id for t in tokens_of(steps)] == full[: full.index(full[3])]
    assert steps[-1].finish_reason == "stop"


def test_an_answer_that_ends_at_once_is_empty(
    engine: TransformersEngine, scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tokens_of(run(engine, scorer, requests(max_tokens=1)[:1])["r0"])[0].id
    monkeypatch.setattr(engine, "_end_ids", frozenset({first}))
    (step,) = run(engine, scorer, requests(max_tokens=5)[:1])["r0"]
    assert (step.text, step.tokens, step.logit, step.finish_reason) == ("", (), None, "stop")
    assert readout_of([step]).rows == 0


@pytest.mark.parametrize("where", [(0, 2), (3, 6), (4, 5), (1, 9), (8, 10)])
def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(
    engine: TransformersEngine, scorer: Scorer, where: tuple[int, int]
) -> None:
    """Stop strings that begin and end inside tokens, at their edges, and over several: all from the answer itself."""
    asked = requests(max_tokens=12)[1:2]
    free = run(engine, scorer, asked)["r1"]
    text, tokens = text_of(free), tokens_of(free)
    for shift in (0, 1):
        stop = text[tokens[where[0]].start + shift : tokens[where[1]].end]
        if not stop.strip("\ufffd"):
            continue
        steps = run(engine, scorer, [replace(asked[0], sampling=Sampling(max_tokens=12, stop=(stop, "@@@@")))])["r1"]
        check_rows(steps)
        assert text_of(steps) == text[: text.index(stop)]
        assert steps[-1].finish_reason == "stop"
        visible = [t.id for t in tokens_of(steps)]
        assert visible == [t.id for t in tokens][: len(visible)]
        if visible:
            (again,) = engine.replay(render(engine.tokenizer, asked[0].messages), [visible], scorer)
            assert same_score(readout_of(steps), again)


def test_text_held_back_for_a_stop_string_appears_when_the_answer_ends(llama: TransformersEngine) -> None:
    scorer = random_scorer(llama)
    asked = requests(max_tokens=12)[1]
    free = text_of(run(llama, scorer, [asked])["r1"])
    stop = (free[3:] + "never",)  # everything from there on may be the beginning of it
    steps = run(llama, scorer, [replace(asked, sampling=Sampling(max_tokens=12, stop=stop))])["r1"]
    check_rows(steps)
    assert text_of(steps) == free
    assert steps[-1].finish_reason == "length"


def test_sampling_is_repeatable_and_does_not_depend_on_the_batch(engine: TransformersEngine) -> None:
    scorer, asked = random_scorer(engine), requests(max_tokens=8, temperature=1.5, top_p=0.9, seed=3)
    together = run(engine, scorer, asked)
    for request in asked:
        alone = run(engine, scorer, [request])[request.id]
        assert [t.id for t in tokens_of(alone)] == [t.id for t in tokens_of(together[request.id])]
        check_rows(together[request.id])


def test_no_request_no_step(engine: TransformersEngine) -> None:
    assert list(engine.generate([], random_scorer(engine))) == []


def test_the_context_may_be_filled_to_the_last_token(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, asked = random_scorer(engine), requests(max_tokens=1)
    room = engine.context - max(len(render(engine.tokenizer, request.messages)) for request in asked)
    monkeypatch.setattr(engine, "_end_ids", frozenset())
    assert room > 100
    for steps in run(engine, scorer, requests(questions=QUESTIONS[1:2], max_tokens=room)).values():
        check_rows(steps)
        assert readout_of(steps).rows == room
    with pytest.raises(PromptTooLong, match="the context of tiny"):
        next(engine.generate(requests(max_tokens=room + 1), scorer))
    engine.replay([5] * (engine.context - 3), [[6, 7, 8], [6]], scorer)
    with pytest.raises(PromptTooLong):
        engine.replay([5] * (engine.context - 3), [[6, 7, 8, 9], [6]], scorer)
    with pytest.raises(PromptTooLong):
        engine.read([5] * (engine.context + 1))


def test_fewer_than_one_token_is_refused(llama: TransformersEngine) -> None:
    with pytest.raises(InputError, match="max_tokens of 0 in request 'r0'"):
        next(llama.generate(requests(max_tokens=0), random_scorer(llama)))


def test_an_unknown_hookpoint_is_refused_at_once(llama: TransformersEngine) -> None:
    with pytest.raises(CaptureError, match=r"model\.layers\.9"):
        TransformersEngine(llama.reader, "model.layers.9")


# -- equality -----------------------------------------------------------------------------------------------------


def test_generation_and_replay_give_the_same_score(engine: TransformersEngine, any_scorer: Scorer) -> None:
    asked = requests(max_tokens=20)
    for request, steps in zip(asked, run(engine, any_scorer, asked).values(), strict=True):
        ids = [t.id for t in tokens_of(steps)]
        (again,) = engine.replay(render(engine.tokenizer, request.messages), [ids], any_scorer)
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
        patch.setattr(module, "REPLAY_TOKENS", budget)
        together = engine.replay(prompt, [ids[i] for i in chosen], any_scorer)
    for i, readout in zip(chosen, together, strict=True):
        (alone,) = engine.replay(prompt, [ids[i]], any_scorer)
        assert same_score(readout, alone)
        assert readout.rows == len(ids[i])


def test_replayed_rows_are_the_hidden_states_of_prompt_and_response_in_one_pass(engine: TransformersEngine) -> None:
    prompt = render(engine.tokenizer, user(QUESTIONS[1]))
    responses = [[t.id for t in tokenize_response(engine.tokenizer, response)] for response in RESPONSES]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(len(responses))}
    for rows, slots in engine.replay_rows(prompt, responses):
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
    together = engine.replay(prompt, [[50, 51, 52], [60]], scorer)
    steps = run(engine, scorer, requests(max_tokens=6)[1:2])["r1"]
    ids = [t.id for t in tokens_of(steps)]
    assert same_score(together[1], engine.replay(prompt, [[60]], scorer)[0])
    assert same_score(readout_of(steps), engine.replay(prompt, [ids], scorer)[0])


# -- hooks --------------------------------------------------------------------------------------------------------


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("this module must not run")


def test_a_replay_ends_at_the_hookpoint(llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for later in (llama.model.model.layers[3], llama.model.model.norm, llama.model.lm_head):
        monkeypatch.setattr(later, "forward", refuse)
    (readout,) = llama.replay([5, 6, 7], [[8, 9]], random_scorer(llama))
    assert readout.rows == 2
    with pytest.raises(RuntimeError, match="must not run"):
        next(llama.generate(requests(), random_scorer(llama)))


def test_no_hook_stays_whatever_happens(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, before = random_scorer(engine), hooks(engine)
    run(engine, scorer, requests(max_tokens=2))
    engine.replay([5, 6], [[7], [8, 9]], scorer)
    assert hooks(engine) == before
    early = engine.generate(requests(), scorer)
    next(early)
    assert hooks(engine) == before  # nor between two steps
    early.close()
    rows = engine.replay_rows([5, 6], [[7]])
    next(rows)
    assert hooks(engine) == before
    broken = engine.generate(requests(), scorer)
    next(broken)
    with monkeypatch.context() as patch:
        patch.setattr(engine.model.get_output_embeddings(), "forward", refuse)
        with pytest.raises(RuntimeError, match="must not run"):
            list(broken)
    assert hooks(engine) == before
    assert readout_of(run(engine, scorer, requests(max_tokens=2))["r0"]).rows == 2  # and the lock is free


def test_a_pass_that_never_reaches_the_hookpoint_is_an_error(
    llama: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = random_scorer(llama)
    monkeypatch.setattr(llama.model, "forward", lambda **_: None)
    with pytest.raises(CaptureError, match="never reached"):
        llama.replay([5], [[6]], scorer)


def test_generators_and_replays_on_one_reader_do_not_disturb_each_other(llama: TransformersEngine) -> None:
    other = TransformersEngine(llama.reader, "model.layers.0")
    scorer, second = random_scorer(llama), random_scorer(other, "window")
    asked, prompt = requests(max_tokens=8), [5, 6, 7]
    alone = [run(llama, scorer, asked), run(other, second, asked), llama.replay(prompt, [[8, 9]], scorer)]
    found: list[dict[str, Readout]] = [{}, {}]
    rows = llama.replay_rows(prompt, [[8, 9], [10]])
    next(rows)  # an unfinished replay, which would stop the others at its hookpoint
    generators = [llama.generate(asked, scorer), other.generate(asked, second)]
    for pair in zip(*generators, strict=True):
        for i, (name, step) in enumerate(pair):
            if step.readout is not None:
                found[i][name] = step.readout
        assert same_score(llama.replay(prompt, [[8, 9]], scorer)[0], alone[2][0])
    for i in range(2):
        assert all(same_score(found[i][name], readout_of(steps)) for name, steps in alone[i].items())


def test_threads_on_one_reader_do_not_disturb_each_other(llama: TransformersEngine) -> None:
    engines = [TransformersEngine(llama.reader, point) for point in ("model.layers.0", "model.layers.2", "model.norm")]
    scorers = [random_scorer(engine) for engine in engines]
    ids = [[50 + i, 60, 70, 80 - i] for i in range(8)]

    def work(i: int) -> list[Readout]:
        engine, scorer = engines[i % 3], scorers[i % 3]
        steps = run(engine, scorer, requests(max_tokens=6)[:2])
        return [*map(readout_of, steps.values()), *engine.replay([5, 6, 7], ids, scorer)]

    alone = [work(i) for i in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for i, found in enumerate(threads.map(work, range(6))):
            assert all(same_score(a, b) for a, b in zip(found, alone[i % 3], strict=True))


# -- broken weights, the real model -------------------------------------------------------------------------------


def test_weights_that_are_not_numbers_are_seen(folder: Path, scorer: Scorer) -> None:
    engine = tiny_engine(folder)
    for parameter in engine.model.get_submodule(engine.hookpoint).parameters():
        parameter.fill_(math.nan)
    assert not engine.replay([5, 6], [[7, 8]], scorer)[0].finite
    assert not readout_of(run(engine, scorer, requests(max_tokens=2))["r0"]).finite


@pytest.mark.model
def test_the_real_model_scores_alike_in_generation_and_replay(reader: Reader) -> None:
    engine = TransformersEngine(reader, "model.layers.18")
    scorer, asked = random_scorer(engine, "window"), requests(max_tokens=10)[:2]
    for request, steps in zip(asked, run(engine, scorer, asked).values(), strict=True):
        check_rows(steps)
        ids = [t.id for t in tokens_of(steps)]
        (again,) = engine.replay(render(engine.tokenizer, request.messages), [ids], scorer)
        assert same_score(readout_of(steps), again)
