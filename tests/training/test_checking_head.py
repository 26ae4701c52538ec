from __future__ import annotations

import numpy as np
import pytest
import torch

from groundwire.additive import Shapes
from groundwire.sae import Dictionary, SparseEncoder
from groundwire.scoring import Pooling, Scorer
from groundwire.training.checking import Readings
from groundwire.training.checking_head import BINDING, WINDOW, Sentences, distil, fit_sentences
from groundwire.training.lessons import Taught
from groundwire.training.rows import TokenRows
from groundwire.types import Readout

D = 16


@pytest.fixture(scope="module")
def parts():
    """Rows of 40 answers of 2 sentences, a random dictionary, and readings with weights."""
    generator = torch.Generator().manual_seed(0)
    lengths = [12 + i % 9 for i in range(40)]
    rows = torch.randn(sum(lengths), D, generator=generator).half().numpy()
    answers = [
        Taught(tuple(range(n)), np.array([4, n - 1]), np.zeros(2), np.zeros(n), i % 2) for i, n in enumerate(lengths)
    ]
    both = torch.randn(24, D, generator=generator)
    dictionary = Dictionary(both, torch.randn(24, generator=generator), both, torch.zeros(D), "relu", hookpoint="h")
    readings = Readings(torch.zeros(D) + 0.1, torch.ones(D) * 1.3)
    with torch.no_grad():
        readings.linear.weight.copy_(torch.randn(2, D, generator=generator))
        readings.linear.bias.copy_(torch.tensor([0.3, -0.7]))
    return dictionary, readings, TokenRows(rows, np.r_[0, np.cumsum(lengths)]), answers


@pytest.fixture(scope="module")
def head(parts):
    dictionary, readings, rows, answers = parts
    ends = np.concatenate([a.ends + start for a, start in zip(answers, rows.offsets, strict=False)])
    return distil(dictionary, [0, 3, 5, 8], readings, rows, ends), ends


def test_latents_and_what_they_leave_sum_to_the_readings(parts, head):
    _, readings, rows, _ = parts
    made, ends = head
    wanted = readings(torch.from_numpy(rows.rows)).detach().numpy()
    at_ends = made.sums(rows.rows[ends], made.ends) + made.constants[0]
    inner = np.abs(at_ends - wanted[ends, 0]) < 1e-2  # but for what lies beyond the outermost knots
    assert inner.mean() > 0.85
    everywhere = made.sums(rows.rows, made.tokens) + made.constants[1]
    assert (np.abs(everywhere - wanted[:, 1]) < 1e-2).mean() > 0.9
    assert all(0 < share < 1 for share in made.explained)


def test_a_term_at_its_usual_level_adds_nothing(parts, head):
    _, _, rows, _ = parts
    made, _ = head
    contributions = made.tokens(made.encoder(torch.from_numpy(rows.rows).float()))
    assert contributions.mean(0).abs().max() < 0.05
    assert bool((contributions[:, -2] == 0).all())  # the other reading's direction
    assert bool((made.ends(made.encoder(torch.from_numpy(rows.rows).float()))[:, -1] == 0).all())


def test_sentences_are_read_as_the_scorer_reads_them(parts, head):
    _, _, rows, answers = parts
    made, _ = head
    sentences = Sentences.of(made, rows, answers, np.zeros((80, len(BINDING))))
    worst = sentences.worst(1.0, 0.4, [0.0] * len(BINDING))
    scorer = Scorer(made.encoder, made.tokens, 0.5, Pooling("window", WINDOW, window_weight=0.4), end_shapes=made.ends)
    for i in (0, 7, 21):
        own = torch.from_numpy(rows.rows[rows.offsets[i] : rows.offsets[i + 1]]).float()
        features = scorer.encode(own)
        empty = torch.zeros(0)
        readout = Readout(len(own), 0.0, empty, empty, empty, empty, features=features)
        found = scorer.by_sentence(readout, answers[i].ends.tolist())
        assert found.logit == pytest.approx(
            0.5 + sentences.ends[worst[i]] + 0.4 * sentences.windows[worst[i]], abs=1e-5
        )


def test_weights_are_found_and_never_below_zero():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    ends = rng.normal(size=800) + np.repeat(labels, 2) * np.tile([0.0, 1.5], 400)
    windows = -np.repeat(labels, 2) + rng.normal(size=800)  # misleads
    faults = np.zeros((800, len(BINDING)))
    faults[:, 1] = np.repeat(labels, 2) * (rng.random(800) < 0.3) * 0.5
    sentences = Sentences(ends, windows, faults, np.arange(0, 801, 2))
    measured = [{"absent_numbers": float(label + rng.normal() > 1)} for label in labels]
    model = fit_sentences(sentences, measured, labels, np.array(["d"] * 400), ("absent_numbers",))
    assert model.end_weight > 0.2
    assert model.window_weight == 0.0
    assert model.slopes[0] == 0.0 < model.slopes[1]
    binding = model.binding()
    assert binding is not None
    assert binding.names == (BINDING[1],)
    assert model.response.grounding is not None
    logits = model.logits(sentences, measured)
    assert logits[labels == 1].mean() > logits[labels == 0].mean() + 0.5


def test_end_shapes_belong_to_windows():
    encoder = SparseEncoder(torch.eye(2), torch.zeros(2), None, False)
    shapes = Shapes.piecewise_linear([np.array([0.0, 1.0])] * 2, [np.array([0.0, 1.0])] * 2)
    with pytest.raises(Exception, match="sentence ends"):
        Scorer(encoder, shapes, 0.0, Pooling("max"), end_shapes=shapes)
