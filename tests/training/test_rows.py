from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import render, tokenize_response
from groundwire.training import rows as module
from groundwire.training.data import LabelledExample
from groundwire.training.rows import TokenRows, collect_rows, join

HOOKPOINT = "model.layers.2"
PROMPTS = ("Who built the bridge?", "How high is the lighthouse?", "Passage 1: The keeper came from Lisbon.")
RESPONSES = ("It was built in 1889.", "", "The passages do not say.", "A builder from Lisbon, 41 metres high; the log.")


def example(number, prompt, response):
    messages = [{"role": "user", "content": prompt}]
    return LabelledExample(str(number), messages, response, number % 2, None, f"g{number}", "m", "d")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_ROWS", 5)


@pytest.fixture
def engine(tiny):
    return TransformersEngine(tiny, HOOKPOINT)


@pytest.fixture(scope="module")
def examples():
    """Prompts recur, with other rows between them, within parts and across them."""
    return [example(i, PROMPTS[i % 3], RESPONSES[i % 4]) for i in range(12)]


def test_rows_are_those_of_the_engine_rounded_to_float16(engine, examples, tmp_path):
    found = collect_rows(engine, examples, tmp_path)
    assert len(found) == 12
    assert found.rows.dtype == np.float16
    for i, row in enumerate(examples):
        prompt = render(engine.tokenizer, row.messages)
        response = [token.id for token in tokenize_response(engine.tokenizer, row.response)]
        own = found.rows[found.offsets[i] : found.offsets[i + 1]]
        assert len(own) == len(response)
        parts = [part for part, _ in engine.replay_rows([Asked(prompt, [response])])]
        if parts:
            np.testing.assert_allclose(own.astype(np.float32), torch.cat(parts).numpy(), rtol=2e-3, atol=1e-3)
    assert found.offsets[-1] == len(found.rows)


def test_answers_to_one_prompt_share_a_pass(engine, examples, tmp_path, monkeypatch):
    replay, calls = engine.replay_rows, []

    def counted(asked):
        calls.append([len(each.responses) for each in asked])
        return replay(asked)

    monkeypatch.setattr(module, "PART_ROWS", 100)
    monkeypatch.setattr(engine, "replay_rows", counted)
    collect_rows(engine, examples, tmp_path)
    assert calls == [[4, 4, 4]]


def test_an_interrupted_run_continues_at_the_first_missing_part(engine, examples, tmp_path, monkeypatch):
    wanted = collect_rows(engine, examples, tmp_path / "whole")
    part, calls = module._part, []

    def counted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return part(*args)

    monkeypatch.setattr(module, "_part", counted)
    with pytest.raises(KeyboardInterrupt):
        collect_rows(engine, examples, tmp_path / "cut")
    found = collect_rows(engine, examples, tmp_path / "cut")
    assert len(calls) == 4  # the first part was not computed again
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)


def test_rows_of_another_source_are_refused(tiny, engine, examples, tmp_path):
    collect_rows(engine, examples, tmp_path)
    with pytest.raises(InputError, match="made with another rows"):
        collect_rows(engine, examples[:-1], tmp_path)
    with pytest.raises(InputError, match="made with another rows"):
        collect_rows(engine, [*examples[:-1], replace(examples[-1], response="Another.")], tmp_path)
    with pytest.raises(InputError, match="made with another hookpoint"):
        collect_rows(TransformersEngine(tiny, "model.layers.1"), examples, tmp_path)


def test_labels_are_no_part_of_the_source(engine, examples, tmp_path):
    """Spans that were corrected need no second pass."""
    wanted = collect_rows(engine, examples, tmp_path)
    again = collect_rows(engine, [replace(e, label=1 - e.label, spans=()) for e in examples], tmp_path)
    np.testing.assert_array_equal(again.rows, wanted.rows)


def test_a_row_beyond_the_context_is_named(engine, examples, tmp_path):
    with pytest.raises(PromptTooLong, match="row 77"):
        collect_rows(engine, [example(77, "Who built it?", "The bridge. " * 200), *examples], tmp_path)


@pytest.mark.parametrize(("factor", "refused"), [(torch.nan, True), (1e9, False)])
def test_what_is_not_finite_is_refused_and_what_float16_cannot_hold_is_cut(
    engine, examples, tmp_path, monkeypatch, factor, refused
):
    replay = engine.replay_rows
    monkeypatch.setattr(engine, "replay_rows", lambda *args: ((rows * factor, slots) for rows, slots in replay(*args)))
    if refused:
        with pytest.raises(InputError, match="not finite"):
            collect_rows(engine, examples, tmp_path)
    else:
        found = collect_rows(engine, examples, tmp_path)
        assert np.isfinite(found.rows).all()
        assert np.abs(found.rows).max() == pytest.approx(60_000, rel=1e-3)


@st.composite
def token_rows(draw):
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=8))
    rows = np.arange(sum(lengths) * 3, dtype=np.float16).reshape(-1, 3)
    return TokenRows(rows, np.r_[0, np.cumsum(lengths)])


@given(token_rows(), st.data())
def test_rows_taken_apart_and_joined_are_the_same(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    back = join([rows.take(range(cut)), rows.take(range(cut, len(rows)))])
    np.testing.assert_array_equal(back.rows, rows.rows)
    np.testing.assert_array_equal(back.offsets, rows.offsets)


@given(token_rows(), st.data())
def test_take_gives_each_answer_its_rows_in_the_order_asked_for(rows, data):
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    found = rows.take(np.array(chosen, dtype=int))
    assert len(found) == len(chosen)
    for place, i in enumerate(chosen):
        own = found.rows[found.offsets[place] : found.offsets[place + 1]]
        np.testing.assert_array_equal(own, rows.rows[rows.offsets[i] : rows.offsets[i + 1]])
