from __future__ import annotations

import numpy as np
import pytest

from groundwire.grounding import Grounding
from groundwire.training.data import LabelledExample
from groundwire.training.response import CAP, GROUNDING, fit_response, measure


def material(n=600, seed=0):
    """Windows and terms, of which the window and the first two terms say something and the third says the opposite."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    windows = labels + rng.normal(size=n)
    terms = np.log1p(rng.integers(0, 4, (n, 3)) + labels[:, None] * [1, 1, 0] + (1 - labels[:, None]) * [0, 0, 2])
    return windows, [dict(zip(GROUNDING, map(float, row), strict=True)) for row in terms], labels


def sets(n, name="a"):
    return np.full(n, name)


def slopes(model):
    """Weight of the window and of every term, 0 for one that was left out."""
    names = model.grounding.names if model.grounding else ()
    found = {name: float(model.grounding.shapes.slopes[i, 1]) for i, name in enumerate(names)}
    return np.array([model.window_weight, *(found.get(name, 0.0) for name in GROUNDING)])


def test_what_tells_unfaithful_answers_has_weight_and_nothing_has_less_than_none():
    windows, measured, labels = material()
    model = fit_response(windows, measured, labels, sets(600))
    assert model.window_weight > 0.3
    assert model.grounding is not None
    assert model.grounding.names == GROUNDING[:2]  # the third would need a weight below zero
    assert (slopes(model)[:3] > 0.1).all()


@pytest.mark.parametrize("seed", range(5))
def test_weights_of_noise_are_never_negative(seed):
    rng = np.random.default_rng(seed)
    measured = [dict(zip(GROUNDING, map(float, row), strict=True)) for row in rng.random((200, 3))]
    model = fit_response(rng.normal(size=200), measured, rng.permutation(np.arange(200) % 2), sets(200))
    assert (slopes(model) >= 0).all()


def test_a_window_that_says_the_opposite_has_no_weight_and_terms_that_do_leave_no_grounding():
    windows, measured, labels = material()
    third = [{GROUNDING[2]: m[GROUNDING[2]]} for m in measured]
    model = fit_response(-windows, third, labels, sets(600), GROUNDING[2:])
    assert model.grounding is None
    assert model.window_weight == 0
    np.testing.assert_array_equal(model.logits(windows, third), np.zeros(600))


def test_a_set_with_one_label_only_is_left_out():
    """It holds the same rows, all unfaithful: were they counted, the weights would shrink."""
    windows, measured, labels = material()
    wanted = fit_response(windows, measured, labels, sets(600))
    found = fit_response(
        np.r_[windows, windows], measured * 2, np.r_[labels, np.ones(600, int)], np.r_[sets(600), sets(600, "b")]
    )
    np.testing.assert_allclose(slopes(found), slopes(wanted), rtol=1e-2, atol=1e-3)


def test_the_base_rates_of_sets_teach_nothing():
    """Set b is mostly unfaithful and its windows are higher, but within a set they say nothing."""
    rng = np.random.default_rng(0)
    names = np.repeat(["a", "b"], 1000)
    labels = (rng.random(2000) < np.where(names == "b", 0.9, 0.1)).astype(int)
    windows = rng.normal(size=2000) + 3.0 * (names == "b")
    measured = [{GROUNDING[0]: 0.0}] * 2000
    assert np.corrcoef(windows, labels)[0, 1] > 0.5
    assert fit_response(windows, measured, labels, names, GROUNDING[:1]).window_weight < 0.1


def test_swapping_the_levels_of_two_sets_changes_no_weight():
    windows, measured, labels = material()
    names = np.repeat(["a", "b"], 300)
    for name in ("a", "b"):
        windows[names == name] -= windows[names == name].mean()
    found = [
        slopes(fit_response(windows + np.where(names == high, 5.0, 0.0), measured, labels, names)) for high in "ab"
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-2, atol=1e-3)


def test_sets_weigh_the_same_however_large():
    """A large set in which the window says the opposite does not outvote a small one."""
    windows, measured, labels = material()
    times = 5
    one = fit_response(np.r_[windows, -windows], measured * 2, np.r_[labels, labels], np.r_[sets(600), sets(600, "b")])
    many = fit_response(
        np.r_[windows, *[-windows] * times],
        measured * (1 + times),
        np.concatenate([labels] * (1 + times)),
        np.r_[sets(600), sets(600 * times, "b")],
    )
    np.testing.assert_allclose(slopes(many), slopes(one), rtol=5e-2, atol=1e-2)


def test_a_term_adds_nothing_at_zero_and_no_more_beyond_its_cap():
    windows, measured, labels = material()
    model = fit_response(windows, measured, labels, sets(600))
    assert model.grounding is not None

    def at(value):
        return model.grounding.contributions(dict.fromkeys(GROUNDING, float(value))).numpy()

    caps = [np.quantile([m[name] for m in measured], CAP) for name in model.grounding.names]
    np.testing.assert_array_equal(at(0), 0)
    np.testing.assert_allclose(at(100), slopes(model)[1:3] * caps)
    assert (at(1) < at(100)).all()


def test_logits_are_the_weighted_window_and_the_contributions():
    windows, measured, labels = material()
    model = fit_response(windows, measured, labels, sets(600))
    found = model.logits(windows[:3], measured[:3])
    by_hand = [
        model.window_weight * w + float(model.grounding.contributions(m).sum())
        for w, m in zip(windows[:3], measured[:3], strict=True)
    ]
    np.testing.assert_allclose(found, by_hand)


def test_answers_are_measured_against_their_own_prompt():
    prompts = ("It was built in 1889.", "It is 41 metres high.")
    examples = [
        LabelledExample("i", [{"role": "user", "content": p}], r, 0, None, "g", "m", "d")
        for p in (*prompts, prompts[0])
        for r in ("Built in 1889.", "41 metres, by a keeper.")
    ]
    assert measure(examples) == [Grounding(e.prompt).measure(e.response) for e in examples]
