"""Generation over tiny random models: what becomes visible, how it ends, and a row for every visible token."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.prompts import render
from groundwire.scoring import Scorer
from groundwire.types import Sampling
from tests.detector.engines.answers import (
    QUESTIONS,
    check_rows,
    readout_of,
    replay,
    requests,
    run,
    same_score,
    text_of,
    tokens_of,
)
from tests.detector.tiny import HOOKPOINTS, random_scorer, tiny_engine


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
    monkeypatch.setattr(engine, "end_ids", frozenset({first}))
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
            (again,) = replay(engine, render(engine.tokenizer, asked[0].messages), [visible], scorer)
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
    monkeypatch.setattr(engine, "end_ids", frozenset())
    assert room > 100
    for steps in run(engine, scorer, requests(questions=QUESTIONS[1:2], max_tokens=room)).values():
        check_rows(steps)
        assert readout_of(steps).rows == room
    with pytest.raises(PromptTooLong, match="the context of tiny"):
        next(engine.generate(requests(max_tokens=room + 1), scorer))
    replay(engine, [5] * (engine.context - 3), [[6, 7, 8], [6]], scorer)
    with pytest.raises(PromptTooLong):
        replay(engine, [5] * (engine.context - 3), [[6, 7, 8, 9], [6]], scorer)
    with pytest.raises(PromptTooLong):
        engine.read([5] * (engine.context + 1))


def test_fewer_than_one_token_is_refused(llama: TransformersEngine) -> None:
    with pytest.raises(InputError, match="max_tokens of 0 in request 'r0'"):
        next(llama.generate(requests(max_tokens=0), random_scorer(llama)))


def test_an_unknown_hookpoint_is_refused_at_once(llama: TransformersEngine) -> None:
    with pytest.raises(CaptureError, match=r"model\.layers\.9"):
        TransformersEngine(llama.reader, "model.layers.9")


def test_weights_that_are_not_numbers_are_seen(folder: Path, scorer: Scorer) -> None:
    engine = tiny_engine(folder)
    for parameter in engine.model.get_submodule(engine.hookpoint).parameters():
        parameter.fill_(math.nan)
    engine.end_ids = frozenset()  # of logits that are no numbers the first is taken, which may be the end
    assert not replay(engine, [5, 6], [[7, 8]], scorer)[0].finite
    assert not readout_of(run(engine, scorer, requests(max_tokens=2))["r0"]).finite
