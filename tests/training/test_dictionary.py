from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from groundwire.errors import InputError
from groundwire.sae import Dictionary, load_dictionary
from groundwire.training import dictionary as training
from groundwire.training.dictionary import DictionaryRun, loss_recovered, measure, train_dictionary
from groundwire.training.text import sequences

HOOKPOINT = "model.layers.2"


def identity(d=32, factor=1.0):
    """Every row is rebuilt exactly (times `factor`): each direction and its opposite are latents."""
    both = torch.cat([torch.eye(d), -torch.eye(d)])
    return Dictionary(both, torch.zeros(2 * d), both * factor, torch.zeros(d), "relu")


@pytest.fixture
def run(tiny_llama_folder):
    return DictionaryRun(
        model=str(tiny_llama_folder), hookpoint=HOOKPOINT, tokens=2500, held_out_tokens=400, latents=48, k=6, epochs=2,
        rag_share=0.5, context=64, dtype="float32", device="cpu", seed=0,
    )  # fmt: skip


@pytest.fixture
def held_out(articles, tiny):
    return list(sequences(articles, tiny.tokenizer, held_out=True, context=64))


def recovered(tiny, dictionary, texts, **options):
    return loss_recovered(tiny.model, dictionary, HOOKPOINT, iter(texts), **options)


def test_a_perfect_dictionary_recovers_all_of_the_loss(tiny, held_out):
    found = recovered(tiny, identity(), held_out)
    assert found["loss_recovered"] == pytest.approx(1, abs=1e-3)
    assert found["loss_reconstructed"] == pytest.approx(found["loss"], abs=1e-4)


def test_the_loss_is_that_of_hugging_face(tiny, held_out):
    found = recovered(tiny, identity(), held_out[:3])
    total = sum(
        float(tiny.model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1)
        for ids in held_out[:3]
    )
    assert found["loss_tokens"] == sum(len(ids) - 1 for ids in held_out[:3])
    assert found["loss"] == pytest.approx(total / found["loss_tokens"], rel=1e-4)


def test_a_bad_dictionary_changes_the_loss(tiny, held_out):
    """On a random model less information can lower the loss: what counts is the distance from the original."""
    found = recovered(tiny, identity(factor=-1.0), held_out)
    assert abs(found["loss_reconstructed"] - found["loss"]) > 0.01
    assert abs(found["loss_recovered"] - 1) > 0.05


def test_it_stops_after_the_tokens_it_was_given(tiny, held_out):
    assert recovered(tiny, identity(), held_out, tokens=50)["loss_tokens"] == len(held_out[0]) - 1


def test_measure_reports_on_held_out_text(tiny, articles, tmp_path, run):
    report = measure(identity(), tiny, articles, tmp_path, run)
    assert report["fraction_of_variance_unexplained"] < 1e-4
    assert report["held_out_tokens"] >= 400
    assert report["loss_recovered"] == pytest.approx(1, abs=1e-3)
    assert json.loads((tmp_path / "activations" / "held-out" / "source.json").read_text())["held_out"] is True


def test_from_text_to_a_measured_dictionary(articles, tmp_path, run):
    report = train_dictionary(articles, tmp_path, run)
    loaded = load_dictionary(tmp_path)
    assert (loaded.hookpoint, loaded.n_latents, loaded.d_model) == (HOOKPOINT, 48, 32)
    assert loaded.metadata["training_tokens"] == report["training_tokens"] >= 2500
    assert 0 < report["fraction_of_variance_unexplained"] < 1
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert train_dictionary(articles, tmp_path, run) == report


@pytest.mark.parametrize("when", ["collecting", "training"])
def test_an_interrupted_run_continues_to_the_same_dictionary(articles, tmp_path, run, monkeypatch, when):
    train_dictionary(articles, tmp_path / "whole", run)
    monkeypatch.setattr("groundwire.training.sae.CHECKPOINT_EVERY", 1)
    step = training.SaeTrainer._step

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "collecting":
            patch.setattr(training, "collect", stop)
        else:
            patch.setattr(training.SaeTrainer, "_step", lambda self, *a: step(self, *a) if a[1] < 1 else stop())
        with pytest.raises(KeyboardInterrupt):
            train_dictionary(articles, tmp_path / "cut", run)
    train_dictionary(articles, tmp_path / "cut", run)
    whole, cut = (load_dictionary(tmp_path / name) for name in ("whole", "cut"))
    torch.testing.assert_close(cut.encoder, whole.encoder)
    torch.testing.assert_close(cut.threshold, whole.threshold)


def test_sequences_longer_than_the_model_reads_are_refused(articles, tmp_path, run):
    with pytest.raises(InputError, match="pass --context 128 or less"):
        train_dictionary(articles, tmp_path, replace(run, context=129))
    assert not list(tmp_path.iterdir())
