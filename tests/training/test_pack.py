from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import expit

from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.transformers import TransformersEngine
from groundwire.sae import Dictionary
from groundwire.training.data import read_labelled
from groundwire.training.head import HeadOptions
from groundwire.training.pack import SMOOTHING, distances, pack, smoothed
from groundwire.training.pipeline import fit
from groundwire.training.response import measure
from groundwire.training.rows import collect_rows

HOOKPOINT = "model.layers.2"


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "answers.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(120):
            question, label = divmod(number, 2)
            told = f"The bridge of town {question} was built in 1889 by a keeper, they say, and it stands."
            response = f"A sailor from Lisbon painted {question} boats blue." if label else told
            row = {
                "prompt": f"{told} Who built bridge {question}?",
                "response": response,
                "label": label,
                "group": question,
                "spans": [{"start": 0, "end": 22}] if label else [],
            }
            file.write(json.dumps(row) + "\n")
    return read_labelled(path)


@pytest.fixture(scope="module")
def engine(tiny):
    return TransformersEngine(tiny, HOOKPOINT)


@pytest.fixture(scope="module")
def rows(engine, examples, tmp_path_factory):
    return collect_rows(engine, examples, tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def fitted(engine, examples, rows):
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    dictionary = Dictionary(both, torch.zeros(64), both, torch.zeros(32), "relu", hookpoint=HOOKPOINT)
    options = HeadOptions(latents=6, latent_penalty=1.0, residual_penalty=10.0)
    return fit(dictionary, examples, rows, engine.tokenizer, options)


@pytest.fixture(scope="module")
def artifact(fitted, examples, rows, engine):
    return pack(
        fitted, examples, rows, engine, detector_id="tiny", version="1", about={"recipe": "test"},
        describe=lambda ids: {i: {"label": f"latent {i}"} for i in ids},
    )  # fmt: skip


def test_the_detector_says_what_the_pipeline_fitted(artifact, fitted, examples, rows, engine, tmp_path):
    artifact.save_pretrained(tmp_path)
    detector = Detector.from_pretrained(tmp_path, engine=engine)
    found = detector.score_batch(examples)
    logits, _ = fitted.logits(rows, measure(examples))
    np.testing.assert_allclose([d.score for d in found], expit(logits), atol=1e-3)  # rows were kept in float16
    assert {c.term.kind for d in found for c in d.contributions} >= {"latent", "residual"}


def test_tokens_are_calibrated_whatever_the_response_scale(artifact, fitted, examples, rows, engine):
    answer = int(fitted.held_out[0])
    sums = fitted.head.token_sums(rows.rows[rows.offsets[answer] : rows.offsets[answer + 1]])
    own = artifact.scorer
    scale = fitted.calibrated.scale * fitted.response.window_weight
    expected = own.token_intercept + own.token_scale * scale * smoothed(sums, SMOOTHING)
    detector = Detector(artifact, engine, threshold=0.5)
    scores = [token.score for token in detector.score(examples[answer]).tokens]
    np.testing.assert_allclose(scores, expit(expected), atol=1e-3)


def test_answers_kept_back_spread_over_the_quantiles_and_a_strange_one_is_flagged(artifact, fitted, rows):
    encoder = artifact.scorer.encoder
    unlike = distances(encoder, rows, fitted.held_out)
    quantiles = []
    for i in fitted.held_out:
        own = torch.from_numpy(rows.rows[rows.offsets[i] : rows.offsets[i + 1]]).float()
        quantiles.append(unlike.measure(encoder(own).double().mean(0))["quantile"])
    assert 0.3 < np.mean(quantiles) < 0.7
    assert unlike.measure(torch.full((unlike.terms,), 1e3))["flag"]


def test_saved_and_loaded_it_is_the_same(artifact, tmp_path):
    artifact.save_pretrained(tmp_path)
    again = Artifact.from_pretrained(tmp_path)
    assert torch.equal(again.scorer.shapes.values, artifact.scorer.shapes.values)
    assert (again.thresholds, again.spans) == (artifact.thresholds, artifact.spans)
    assert again.about["calibration"]["groups"] == artifact.about["calibration"]["groups"] > 0


def test_smoothing_is_a_centred_mean():
    np.testing.assert_allclose(smoothed(np.array([0.0, 3.0, 6.0, 3.0]), 1), [1.5, 3.0, 4.0, 4.5])
    assert len(smoothed(np.zeros(0), 2)) == 0
