from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import render, tokenize_response
from groundwire.sae import Dictionary
from groundwire.training import features
from groundwire.training.data import LabelledExample
from groundwire.training.features import collect_features

LAYER, HOOKPOINT = 2, "model.layers.2"
PROMPTS = ("Who built the bridge?", "How high is the lighthouse?", "Passage 1: The keeper came from Lisbon.")
RESPONSES = ("It was built in 1889.", "", "The passages do not say.", "A builder from Lisbon, 41 metres high; the log.")


def example(number, prompt, response):
    messages = [{"role": "user", "content": prompt}]
    return LabelledExample(str(number), messages, response, number % 2, None, f"g{number}", "m", "d")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(features, "PART_ROWS", 5)


@pytest.fixture
def engine(tiny):
    return TransformersEngine(tiny, HOOKPOINT)


@pytest.fixture(scope="module")
def dictionary():
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(20, 32, generator=generator) for _ in range(2))
    biases = torch.randn(20, generator=generator), torch.randn(32, generator=generator)
    return Dictionary(
        encoder, biases[0], decoder, biases[1], "jumprelu", threshold=torch.full((20,), 9.0), input_scale=0.5,
        subtract_decoder_bias=True, hookpoint=HOOKPOINT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def examples():
    """Prompts recur, with other rows between them, within parts and across them."""
    return [example(i, PROMPTS[i % 3], RESPONSES[i % 4]) for i in range(12)]


def test_features_are_those_of_the_whole_sequence_computed_naively(engine, dictionary, examples, tmp_path):
    """Prompt and response in one pass, all layers, Hugging Face's own hidden states."""
    found = collect_features(engine, dictionary, examples, tmp_path)
    assert found.maximum.shape == found.peak.shape == (12, 20)
    for i, row in enumerate(examples):
        prompt = render(engine.tokenizer, row.messages)
        response = [token.id for token in tokenize_response(engine.tokenizer, row.response)]
        assert found.length[i] == len(response)
        if not response:
            assert (found.maximum[i] == 0).all()
            assert (found.peak[i] == -1).all()
            continue
        with torch.inference_mode():
            states = engine.model(input_ids=torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
        values = dictionary.pre_activations(states[LAYER + 1][0, len(prompt) :])
        np.testing.assert_allclose(found.maximum[i], values.max(0).values.numpy(), rtol=1e-4, atol=1e-4)
        at_peak = values[torch.tensor(found.peak[i]).long(), torch.arange(20)]
        np.testing.assert_allclose(at_peak.numpy(), values.max(0).values.numpy(), rtol=1e-4, atol=1e-4)


def test_an_interrupted_run_continues_at_the_first_missing_part(engine, dictionary, examples, tmp_path, monkeypatch):
    wanted = collect_features(engine, dictionary, examples, tmp_path / "whole")
    part, calls = features._part, []

    def counted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return part(*args)

    monkeypatch.setattr(features, "_part", counted)
    with pytest.raises(KeyboardInterrupt):
        collect_features(engine, dictionary, examples, tmp_path / "cut")
    found = collect_features(engine, dictionary, examples, tmp_path / "cut")
    assert len(calls) == 4  # the first part was not computed again
    for name in ("maximum", "peak", "length"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_features_of_other_rows_or_another_dictionary_are_refused(engine, dictionary, examples, tmp_path):
    collect_features(engine, dictionary, examples, tmp_path)
    with pytest.raises(InputError, match="made with another rows"):
        collect_features(engine, dictionary, examples[:-1], tmp_path)
    for change in (
        {"encoder_bias": dictionary.encoder_bias + 1},
        {"input_scale": 2.0},
        {"encoder": -dictionary.encoder},
    ):
        with pytest.raises(InputError, match="made with another dictionary"):
            collect_features(engine, replace(dictionary, **change), examples, tmp_path)


def test_features_of_another_hookpoint_are_refused(tiny, engine, dictionary, examples, tmp_path):
    collect_features(engine, dictionary, examples, tmp_path)
    with pytest.raises(InputError, match="made with another hookpoint"):
        collect_features(TransformersEngine(tiny, "model.layers.1"), dictionary, examples, tmp_path)


def test_a_row_beyond_the_context_is_named_and_can_be_taken_out(engine, dictionary, examples, tmp_path):
    long = example(77, "Who built it?", "The bridge. " * 200)
    with pytest.raises(PromptTooLong, match="row 77"):
        collect_features(engine, dictionary, [long, *examples], tmp_path)
    assert len(collect_features(engine, dictionary, examples, tmp_path).length) == 12


def test_activations_that_are_not_finite_are_refused(engine, dictionary, examples, tmp_path, monkeypatch):
    replay = engine.replay_rows
    monkeypatch.setattr(
        engine, "replay_rows", lambda *args: ((rows * torch.nan, slots) for rows, slots in replay(*args))
    )
    with pytest.raises(InputError, match=r"not finite, rows \['0'"):
        collect_features(engine, dictionary, examples, tmp_path)
