from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from groundwire.errors import InputError
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary
from groundwire.scoring import Pooling, Scorer
from groundwire.training import head as module
from groundwire.training.data import LabelledExample
from groundwire.training.head import HeadOptions, best_window, fit_head, pooled, token_targets, witnesses
from groundwire.training.logistic import ridge_logistic
from groundwire.training.metrics import auc
from groundwire.training.rows import TokenRows

WIDTH, PLANTED, HIDDEN = 16, 5, 12  # latents read the first eight axes; HIDDEN is an axis that none of them reads
TEXT = "the lighthouse bridge was built in 1889 by a keeper from Lisbon and it is 41 metres high"
WORDS = TEXT.split()
OPTIONS = HeadOptions(latents=4, latent_penalty=1.0, residual_penalty=10.0, window=3)


@pytest.fixture(scope="module")
def dictionary():
    generator = torch.Generator().manual_seed(0)
    encoder = torch.zeros(12, WIDTH)
    encoder[:, :8] = torch.nn.functional.normalize(torch.randn(12, 8, generator=generator), dim=1)
    return Dictionary(encoder, torch.randn(12, generator=generator), encoder.clone(), torch.zeros(WIDTH), "relu")


@pytest.fixture(scope="module")
def material(tiny, dictionary):
    """80 answers, every other one with a wrong passage whose tokens lie along a latent and along a hidden axis."""
    rng = np.random.default_rng(0)
    examples, rows, lengths = [], [], []
    for i in range(80):
        words = rng.choice(WORDS, 14)
        response = " ".join(words)
        spans = ()
        if i % 2:
            start = len(" ".join(words[:6])) + 1
            spans = ((start, start + len(" ".join(words[6:10]))),)
        messages = [{"role": "user", "content": f"Question {i // 2}"}]
        examples.append(LabelledExample(str(i), messages, response, i % 2, spans, f"g{i // 2}", "m", "ab"[i % 4 // 2]))
        tokens = tokenize_response(tiny.tokenizer, response)
        wrong = np.array([any(t.start < e and t.end > s for s, e in spans) for t in tokens], dtype=float)
        own = rng.normal(size=(len(tokens), WIDTH))
        own += 2 * wrong[:, None] * dictionary.encoder[PLANTED].numpy()
        own[:, HIDDEN] += 2 * wrong
        rows.append(own.astype(np.float16))
        lengths.append(len(tokens))
    return examples, TokenRows(np.concatenate(rows), np.r_[0, np.cumsum(lengths)])


def spanless(examples):
    return [replace(e, spans=None) for e in examples]


@pytest.fixture(scope="module")
def head(tiny, dictionary, material):
    return fit_head(dictionary, *material, tiny.tokenizer, OPTIONS)


def test_a_planted_latent_and_a_planted_direction_are_found(tiny, material, head):
    examples, rows = material
    assert PLANTED in head.feature_ids
    assert head.feature_ids == tuple(sorted(head.feature_ids))
    slopes = head.shapes.slopes[:-1, 1]
    assert head.feature_ids[int(slopes.argmax())] == PLANTED
    direction = head.encoder.weight[-1]
    assert float(direction[HIDDEN] / direction.norm()) > 0.9
    truth = token_targets(tiny.tokenizer, examples, rows).unfaithful
    assert auc(truth.astype(int), head.token_sums(rows.rows)) > 0.95


def test_token_sums_are_the_linear_form_that_was_fitted(tiny, dictionary, material, head):
    """Done again by hand: clipped, standardised latents times their coefficients, and the clipped direction."""
    examples, rows = material
    latents = dictionary.select(list(head.feature_ids), activation="pre")
    x = latents(torch.from_numpy(rows.rows))
    knots = torch.quantile(x, torch.tensor(module.KNOTS), dim=0)
    inside = ((x >= knots[0]) & (x <= knots[1])).all(1)
    clipped = torch.minimum(torch.maximum(x, knots[0]), knots[1])
    standard = (clipped - clipped.mean(0)) / clipped.std(0)
    target = torch.from_numpy(token_targets(tiny.tokenizer, examples, rows).unfaithful).float()
    beta, _ = ridge_logistic(standard, target, penalty=OPTIONS.latent_penalty, steps=6)
    along = torch.from_numpy(rows.rows).float() @ head.encoder.weight[-1] + head.encoder.bias[-1]
    low, high = torch.quantile(along, torch.tensor(module.KNOTS))
    wanted = (standard @ beta + along.clamp(low, high)).numpy()
    assert 0.9 < float(inside.float().mean()) < 1
    np.testing.assert_allclose(head.token_sums(rows.rows), wanted, atol=1e-4)


def test_a_term_at_its_mean_adds_nothing(material, head):
    rows = torch.from_numpy(material[1].rows)
    contributions = head.shapes(head.encoder(rows))
    np.testing.assert_allclose(contributions[:, :-1].mean(0), 0, atol=1e-5)
    mean = rows.float().mean(0, keepdim=True)
    assert float(head.shapes(head.encoder(mean))[0, -1]) == pytest.approx(0, abs=1e-5)


def test_answers_with_a_label_only_find_the_planted_signal_too(tiny, dictionary, material):
    examples, rows = material
    found = fit_head(dictionary, spanless(examples), rows, tiny.tokenizer, OPTIONS)
    assert PLANTED in found.feature_ids
    truth = token_targets(tiny.tokenizer, examples, rows).unfaithful
    assert auc(truth.astype(int), found.token_sums(rows.rows)) > 0.8


def test_targets_say_what_the_labels_say(tiny, material):
    examples, rows = material
    mixed = [replace(e, spans=None) if i < 40 else e for i, e in enumerate(examples)]
    found = token_targets(tiny.tokenizer, mixed, rows)
    assert found.open_answers.tolist() == list(range(1, 40, 2))
    for i, e in enumerate(mixed):
        own = slice(rows.offsets[i], rows.offsets[i + 1])
        assert found.known[own].all() == (e.spans is not None or e.label == 0)
        assert found.unfaithful[own].any() == (e.label == 1 and e.spans is not None)


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_witnesses_lie_in_unfaithful_answers_only(tiny, material, window):
    examples, rows = material
    targets = token_targets(tiny.tokenizer, spanless(examples), rows)
    sums = np.random.default_rng(1).normal(size=len(rows.rows))
    known, target = witnesses(targets, rows, sums, window)
    for i, e in enumerate(examples):
        own = slice(rows.offsets[i], rows.offsets[i + 1])
        count = min(window, own.stop - own.start)
        assert target[own].sum() == (count if e.label else 0)
        assert known[own].sum() == (count if e.label else own.stop - own.start)
    assert not targets.unfaithful.any()  # what was given stays as it was


@given(arrays(np.float64, st.integers(0, 12), elements=st.integers(-5, 5).map(float)), st.integers(1, 6))
def test_the_best_window_is_the_first_of_the_highest_mean(sums, window):
    start, length = best_window(sums, window)
    assert length == min(window, len(sums))
    if length:
        means = [sums[i : i + length].mean() for i in range(len(sums) - length + 1)]
        assert means[start] == pytest.approx(max(means))
        assert all(m < means[start] + 1e-9 for m in means[:start])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 6))
def test_pooled_windows_are_what_the_scorer_pools(lengths, window):
    """The engine's fold, with these very shapes, gives the same response logit."""
    generator = torch.Generator().manual_seed(sum(lengths))
    rows = torch.randn(sum(lengths), 4, generator=generator).half()
    encoder = module.SparseEncoder(torch.randn(3, 4, generator=generator), torch.zeros(3))
    shapes = module.Shapes.piecewise_linear([np.array([-1.0, 1.0])] * 3, [np.array([-1.0, w]) for w in (0.5, 2.0, 3)])
    head = module.Head((0, 1), encoder, shapes)
    tokens = TokenRows(rows.numpy(), np.r_[0, np.cumsum(lengths)])
    found = pooled(tokens, head.token_sums(tokens.rows), window)
    scorer = Scorer(encoder, shapes, intercept=0.0, pooling=Pooling("window", window))
    state = scorer.new_state(len(lengths))
    scorer.fold(state, scorer.encode(rows), torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)))
    np.testing.assert_allclose(found, [scorer.logit(state, i) for i in range(len(lengths))], rtol=0, atol=1e-9)


def test_tokens_limits_what_a_set_brings(tiny, material):
    examples, rows = material
    names = np.repeat([e.dataset for e in examples], np.diff(rows.offsets))
    options = HeadOptions(tokens={"a": 50}, most_tokens=100)
    drawn = module._draw(examples, rows, options, 0)
    assert (np.diff(drawn) > 0).all()
    assert {name: int((names[drawn] == name).sum()) for name in "ab"} == {"a": 50, "b": 100}
    assert len(module._draw(examples, rows, HeadOptions(), 0)) == len(rows.rows)
    assert (drawn == module._draw(examples, rows, options, 0)).all()
    assert (drawn != module._draw(examples, rows, options, 1)).any()


def test_one_label_only_is_refused(tiny, dictionary, material):
    examples, rows = material
    with pytest.raises(InputError, match="one label only"):
        fit_head(dictionary, examples[::2], rows.take(range(0, 80, 2)), tiny.tokenizer, OPTIONS)
