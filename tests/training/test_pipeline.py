from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from groundwire.errors import InputError
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary
from groundwire.training.data import LabelledExample
from groundwire.training.head import HeadOptions
from groundwire.training.metrics import auc
from groundwire.training.pipeline import fit, split
from groundwire.training.response import measure
from groundwire.training.rows import TokenRows

WIDTH, PLANTED = 8, 5
TEXT = "the lighthouse bridge was built in 1889 by a keeper from Lisbon and it is 41 metres high"
WORDS = TEXT.split()
OPTIONS = HeadOptions(latents=4, latent_penalty=1.0, residual_penalty=10.0, window=3)


@pytest.fixture(scope="module")
def dictionary():
    encoder = torch.nn.functional.normalize(torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    return Dictionary(encoder, torch.zeros(12), encoder.clone(), torch.zeros(WIDTH), "relu")


@pytest.fixture(scope="module")
def material(tiny, dictionary):
    """Two sets of 150 answers, two to a question; in an unfaithful one, some tokens lie along a latent."""
    rng = np.random.default_rng(0)
    examples, rows, lengths = [], [], []
    for i in range(300):
        name, label = "ab"[i % 2], int(rng.random() < (0.5, 0.3)[i % 2])
        question = " ".join(rng.choice(WORDS, 8))
        if i % 4 > 1:
            question = examples[-2].prompt
        response = " ".join(rng.choice(WORDS, 8))
        messages = [{"role": "user", "content": question}]
        group = f"{name}{i // 4}"
        examples.append(LabelledExample(str(i), messages, response, label, None, group, "m", name))
        count = len(tokenize_response(tiny.tokenizer, response))
        own = rng.normal(size=(count, WIDTH))
        own[3:7] += 1.5 * label * dictionary.encoder[PLANTED].numpy()
        rows.append(own.astype(np.float16))
        lengths.append(len(own))
    return examples, TokenRows(np.concatenate(rows), np.r_[0, np.cumsum(lengths)])


@pytest.fixture(scope="module")
def fitted(tiny, dictionary, material):
    return fit(dictionary, *material, tiny.tokenizer, OPTIONS)


def test_no_group_is_on_both_sides(material, fitted):
    examples, _ = material
    held = {examples[i].group for i in fitted.held_out}
    rest = {e.group for i, e in enumerate(examples) if i not in set(fitted.held_out.tolist())}
    assert held
    assert not held & rest
    assert len(held | rest) == 150


def test_nothing_of_a_held_out_answer_reaches_the_head(tiny, dictionary, material, fitted):
    """Their rows are turned round: calibration changes, the head does not."""
    examples, rows = material
    turned = rows.rows.copy()
    for i in fitted.held_out:
        turned[rows.offsets[i] : rows.offsets[i + 1]] *= -2
    other = fit(dictionary, examples, TokenRows(turned, rows.offsets), tiny.tokenizer, OPTIONS)
    assert other.head.feature_ids == fitted.head.feature_ids
    assert torch.equal(other.head.encoder.weight, fitted.head.encoder.weight)
    assert torch.equal(other.head.shapes.values, fitted.head.shapes.values)
    assert (other.calibrated.scale, other.calibrated.shift) != (fitted.calibrated.scale, fitted.calibrated.shift)


def test_logits_of_held_out_answers_are_calibrated(material, fitted):
    examples, rows = material
    held = [examples[i] for i in fitted.held_out]
    taken = rows.take(fitted.held_out)
    logits, sums = fitted.logits(taken, measure(held))
    labels, names = np.array([e.label for e in held]), np.array([e.dataset for e in held])
    weight = np.where(names == "a", 1 / (names == "a").sum(), 1 / (names == "b").sum())
    assert np.average(expit(logits), weights=weight) == pytest.approx(np.average(labels, weights=weight), abs=0.03)
    assert fitted.calibrated.prevalence == pytest.approx(np.average(labels, weights=weight))
    assert auc(labels, logits) > 0.8
    np.testing.assert_array_equal(sums, fitted.head.token_sums(taken.rows))


def test_the_same_seed_gives_the_same_detector(tiny, dictionary, material, fitted):
    again = fit(dictionary, *material, tiny.tokenizer, OPTIONS)
    assert torch.equal(again.head.encoder.weight, fitted.head.encoder.weight)
    assert again.response.window_weight == fitted.response.window_weight
    assert again.calibrated == fitted.calibrated
    other = fit(dictionary, *material, tiny.tokenizer, OPTIONS, seed=1)
    assert other.held_out.tolist() != fitted.held_out.tolist()


def test_progress_is_told_as_often_as_something_is_fitted(tiny, dictionary, material):
    calls = []
    fit(dictionary, *material, tiny.tokenizer, OPTIONS, done=lambda: calls.append(1))
    assert len(calls) == 1 + OPTIONS.rounds + 1


def test_both_parts_hold_their_share_of_every_kind():
    rng = np.random.default_rng(0)
    kinds = rng.choice(4, 1000, p=[0.6, 0.2, 0.15, 0.05])
    fitted_on, held_out = split([str(i // 2) for i in range(1000)], kinds, (kinds % 2).tolist(), 0)
    assert sorted([*fitted_on, *held_out]) == list(range(1000))
    for kind in range(4):
        assert (kinds[held_out] == kind).sum() == pytest.approx((kinds == kind).sum() / 5, rel=0.2)


def test_labels_in_too_few_groups_are_refused():
    with pytest.raises(InputError, match="label 1 occurs in 1 groups"):
        split(["a", "b", "c", "d", "e"], np.array([1, 0, 0, 0, 0]), [1, 0, 0, 0, 0], 0)
