"""Scoring: streaming equals batch, contributions sum to the logit, pools agree with a naive reading of their words."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.calibration import sigmoid
from groundwire.errors import ArtifactError, CaptureError
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer, State
from groundwire.types import Readout

POOLINGS = [Pooling("max"), Pooling("window", 1), Pooling("window", 3, 0.7, 0.3), Pooling("window", 8, 1.0, 0.25)]
KNOTS = 4


@dataclass
class Case:
    """Rows of three responses, mixed, and what the scorer of it is made of."""

    pooling: Pooling
    knots: np.ndarray
    heights: np.ndarray
    features: Tensor
    slots: Tensor
    smoothing: int = 0
    responses: int = 3

    @cached_property
    def scorer(self) -> Scorer:
        terms = len(self.knots)
        shapes = Shapes.piecewise_linear(list(self.knots), list(self.heights))
        encoder = SparseEncoder(torch.zeros(terms, 2), torch.zeros(terms))
        return Scorer(encoder, shapes, -1.5, self.pooling, 0.5, 2.0, self.smoothing)


@st.composite
def cases(draw: Any, *, ties: bool = True) -> Case:
    """Up to 30 rows, or some hundred. With `ties`, values are few, so that maxima and windows repeat."""
    terms, rows = draw(st.integers(1, 40) | st.just(600)), draw(st.integers(0, 30) | st.integers(120, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    knots = np.sort(rng.normal(size=(terms, KNOTS)), axis=1)
    values = rng.integers(-1, 2, size=(rows, terms)) if ties else rng.normal(size=(rows, terms))
    slots = rng.integers(0, draw(st.integers(1, 3)), size=rows)
    features = torch.tensor(values, dtype=torch.float32)
    pooling, smoothing = draw(st.sampled_from(POOLINGS)), draw(st.integers(0, 3))
    return Case(pooling, knots, rng.normal(size=knots.shape), features, torch.tensor(slots).long(), smoothing)


def alone(case: Case, slot: int) -> Readout:
    """The readout of one response that is folded at once, with nothing else in the state."""
    rows = case.features[case.slots == slot]
    state = case.scorer.fold(case.scorer.new_state(1), rows, torch.zeros(len(rows)).long())
    return case.scorer.finish(state, 0)


def assert_same(got: Readout, expected: Readout) -> None:
    """Equal to the last bit."""
    assert (got.rows, got.logit, got.finite) == (expected.rows, expected.logit, expected.finite)
    for name in ("contributions", "peaks", "token_logits", "mean_features"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


def assert_same_state(got: State, expected: State) -> None:
    for f in fields(State):
        if f.name != "token_sums":
            assert torch.equal(getattr(got, f.name), getattr(expected, f.name)), f.name
    for ours, theirs in zip(got.token_sums, expected.token_sums, strict=True):
        assert torch.equal(torch.cat([torch.zeros(0), *ours]), torch.cat([torch.zeros(0), *theirs]))


@settings(deadline=None)
@given(cases(), st.data())
def test_streaming_equals_batch(case, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.features)), max_size=6)))
    streamed, batched = case.scorer.new_state(case.responses), case.scorer.new_state(case.responses)
    for features, slots in zip(case.features.tensor_split(cuts), case.slots.tensor_split(cuts), strict=True):
        assert case.scorer.fold(streamed, features, slots) is streamed
    by_response = case.slots.argsort(stable=True)
    case.scorer.fold(batched, case.features[by_response], case.slots[by_response])
    assert_same_state(streamed, batched)
    for slot in range(case.responses):
        assert_same(case.scorer.finish(streamed, slot), alone(case, slot))


@settings(deadline=None)
@given(cases(ties=False))
def test_one_row_at_a_time_equals_batch(case):
    state = case.scorer.new_state(case.responses)
    for row, slot in zip(case.features, case.slots, strict=True):
        case.scorer.fold(state, row[None], slot[None])
    for slot in range(case.responses):
        assert_same(case.scorer.finish(state, slot), alone(case, slot))


@settings(deadline=None, max_examples=30)
@given(cases())
def test_the_running_logit_is_that_of_the_answer_so_far(case):
    state = case.scorer.new_state(1)
    for i, row in enumerate(case.features[:12]):
        case.scorer.fold(state, row[None], torch.zeros(1).long())
        prefix = replace(case, features=case.features[: i + 1], slots=torch.zeros(i + 1).long())
        assert case.scorer.logit(state, 0) == alone(prefix, 0).logit


@settings(deadline=None)
@given(cases())
def test_contributions_plus_intercept_equal_the_logit(case):
    for slot in range(case.responses):
        readout = alone(case, slot)
        logit = case.scorer.intercept + sum(readout.contributions.tolist())
        assert logit == pytest.approx(readout.logit, abs=1e-9)
        assert sigmoid(logit) == pytest.approx(sigmoid(readout.logit), abs=1e-9)


@settings(deadline=None)
@given(cases(ties=False))
def test_pools_agree_with_a_naive_reading(case):
    readout = alone(case, 0)
    rows = case.features[case.slots == 0].double().numpy()
    assert readout.rows == len(rows)
    token_sums = naive(case, rows).sum(1)
    if not len(rows):
        expected = np.zeros(case.scorer.terms)
    elif case.scorer.pooling.kind == "max":
        peaks = rows.argmax(0)  # the first of equals, as here
        expected = naive(case, rows.max(0)[None])[0]
        token_sums = np.array([expected[peaks == t].sum() for t in range(len(rows))])
    else:
        expected = naive_window(case.scorer.pooling, naive(case, rows))
    np.testing.assert_allclose(readout.contributions.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(readout.token_logits.numpy(), 0.5 + 2.0 * naive_mean(case, token_sums), atol=1e-9)
    mean = rows.mean(0) if len(rows) else np.zeros(case.scorer.terms)
    np.testing.assert_allclose(readout.mean_features.numpy(), mean, atol=1e-9)


def naive(case: Case, rows: np.ndarray) -> np.ndarray:
    columns = [np.interp(rows[:, j], case.knots[j], case.heights[j]) for j in range(rows.shape[1])]
    return np.stack(columns, axis=1)


def naive_mean(case: Case, sums: np.ndarray) -> np.ndarray:
    """Mean over the tokens at most `smoothing` away."""
    h = case.smoothing
    return np.array([sums[max(0, t - h) : t + h + 1].mean() for t in range(len(sums))])


def naive_window(pooling: Pooling, contributions: np.ndarray) -> np.ndarray:
    """Mean of the best full window (all tokens where there are fewer), and the mean over all, weighted."""
    starts = range(max(1, len(contributions) - pooling.window + 1))
    means = [contributions[s : s + pooling.window].mean(0) for s in starts]
    best = max(means, key=lambda mean: mean.sum())
    return pooling.window_weight * best + pooling.mean_weight * contributions.mean(0)


@settings(deadline=None)
@given(cases())
def test_a_peak_is_the_first_row_of_the_maximum(case):
    case = replace(case, pooling=Pooling("max"))
    rows = case.features[case.slots == 1]
    peaks = alone(case, 1).peaks.tolist()
    columns = [rows[:, j].tolist() for j in range(case.scorer.terms)]
    assert peaks == [column.index(max(column)) if column else -1 for column in columns]


@settings(deadline=None)
@given(cases(ties=False), st.sampled_from(POOLINGS[1:]))
def test_with_windows_a_peak_is_the_row_of_the_best_one_that_counted_most(case, pooling):
    case = replace(case, pooling=pooling)
    readout = alone(case, 1)
    rows = naive(case, case.features[case.slots == 1].double().numpy())
    if not len(rows):
        assert readout.peaks.tolist() == [-1] * case.scorer.terms
        return
    starts = range(max(1, len(rows) - pooling.window + 1))
    best = max(starts, key=lambda s: rows[s : s + pooling.window].sum())
    signed = rows[best : best + pooling.window] * np.sign(readout.contributions.numpy())
    chosen = np.take_along_axis(signed, readout.peaks.numpy()[None] - best, 0)[0]
    np.testing.assert_allclose(chosen, signed.max(0), atol=1e-9)


@settings(deadline=None)
@given(cases())
def test_a_slot_that_was_reset_is_as_good_as_new(after):
    scorer = after.scorer
    state = scorer.new_state(2)
    junk = torch.full((11, scorer.terms), torch.nan)
    scorer.fold(state, junk, torch.arange(11) % 2)
    state.reset(0)
    scorer.fold(state, after.features, torch.zeros(len(after.features)).long())
    fresh = scorer.fold(scorer.new_state(1), after.features, torch.zeros(len(after.features)).long())
    assert_same(scorer.finish(state, 0), scorer.finish(fresh, 0))
    assert scorer.finish(state, 1).rows == 5  # the other slot keeps what it had
    assert not scorer.finish(state, 1).finite


@settings(deadline=None)
@given(cases())
def test_slots_that_are_added_later_are_as_good_as_the_first(after):
    scorer, slots = after.scorer, torch.zeros(len(after.features)).long()
    state = scorer.fold(scorer.new_state(1), after.features, slots).extended(scorer.new_state(1))
    scorer.fold(state, after.features, slots + 1)
    assert_same(scorer.finish(state, 1), scorer.finish(state, 0))


@settings(deadline=None)
@given(cases(), st.sampled_from([torch.nan, torch.inf, -torch.inf]), st.data())
def test_what_is_not_finite_shows_in_its_own_response_alone(case, value, data):
    if not len(case.features):
        return
    row = data.draw(st.integers(0, len(case.features) - 1))
    term = data.draw(st.integers(0, case.scorer.terms - 1))
    broken = case.features.clone()
    broken[row, term] = value
    state = case.scorer.fold(case.scorer.new_state(case.responses), broken, case.slots)
    for slot in range(case.responses):
        readout = case.scorer.finish(state, slot)
        assert readout.finite == (slot != int(case.slots[row]))
        if readout.finite:
            assert_same(readout, alone(case, slot))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_empty_response_has_the_intercept_and_nothing_else(pooling):
    scorer = example_scorer(pooling)
    state = scorer.fold(scorer.new_state(1), torch.zeros(0, 2), torch.zeros(0).long())
    readout = scorer.finish(state, 0)
    assert (readout.rows, readout.logit, readout.finite) == (0, -1.0, True)
    assert readout.contributions.tolist() == [0, 0]
    assert readout.peaks.tolist() == [-1, -1]
    assert readout.token_logits.shape == (0,)
    assert readout.mean_features.tolist() == [0, 0]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_state_can_be_written_and_read_between_chunks(pooling, tmp_path):
    scorer = example_scorer(pooling)
    rows, slots = torch.linspace(-2, 2, 60).reshape(30, 2), torch.arange(30) % 2
    whole = scorer.fold(scorer.new_state(2), rows, slots)
    half = scorer.fold(scorer.new_state(2), rows[:13], slots[:13])
    torch.save({f.name: getattr(half, f.name) for f in fields(State)}, tmp_path / "state.pt")
    restored = State(**torch.load(tmp_path / "state.pt", weights_only=True))
    scorer.fold(restored, rows[13:], slots[13:])
    assert_same_state(restored, whole)


@settings(max_examples=30)
@given(cases())
def test_running_logits_of_many_slots_are_those_of_each(case):
    state = case.scorer.fold(case.scorer.new_state(case.responses), case.features, case.slots)
    found = case.scorer.logits(state, torch.arange(case.responses))
    assert found.tolist() == pytest.approx([case.scorer.logit(state, i) for i in range(case.responses)], abs=1e-9)


@settings(max_examples=30)
@given(cases())
def test_chosen_slots_go_on_as_they_were(case):
    half, scorer = len(case.features) // 2, case.scorer
    state = scorer.fold(scorer.new_state(case.responses), case.features[:half], case.slots[:half])
    chosen = state.at([2, 0])
    moved = torch.tensor([1, -1, 0])[case.slots[half:]]
    scorer.fold(chosen, case.features[half:][moved >= 0], moved[moved >= 0])
    scorer.fold(state, case.features[half:], case.slots[half:])
    assert_same_state(chosen, state.at([2, 0]))


def test_a_scorer_elsewhere_scores_alike():
    scorer = Scorer(SparseEncoder(torch.eye(2, 3), torch.ones(2), torch.zeros(2), True), shapes(), 0.0)
    moved = scorer.to("cpu")
    rows = torch.linspace(-1, 1, 12).reshape(4, 3)
    assert torch.equal(moved.encode(rows), scorer.encode(rows))
    assert torch.equal(moved.shapes(moved.encode(rows)), scorer.shapes(scorer.encode(rows)))


def test_rows_of_any_float_type_are_encoded_in_float32():
    scorer = Scorer(SparseEncoder(torch.eye(2, 3), torch.zeros(2)), shapes(), 0.0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        features = scorer.encode(torch.ones(4, 3, dtype=dtype))
        assert (features.dtype, features.shape) == (torch.float32, (4, scorer.terms))


def test_sums_are_float64():
    """A thousand and more small contributions would drift in float32."""
    scorer = example_scorer(Pooling("window", 8, 0.0, 1.0))
    state = scorer.new_state(1)
    for _ in range(3):
        scorer.fold(state, torch.full((500, 2), 0.1), torch.zeros(500).long())
    readout = scorer.finish(state, 0)
    assert {readout.contributions.dtype, readout.token_logits.dtype} == {torch.float64}
    each = float(torch.tensor(0.1))
    assert readout.logit == pytest.approx(-1 + each - 2 * each, abs=1e-12)


def test_features_of_another_width_are_refused():
    scorer = example_scorer(Pooling())
    with pytest.raises(CaptureError, match=r"3 features a row\n.*2, one for each term\n.*encode"):
        scorer.fold(scorer.new_state(1), torch.zeros(1, 3), torch.zeros(1).long())


def test_a_negative_smoothing_is_refused():
    with pytest.raises(ArtifactError, match="smoothing over -1 tokens"):
        replace(example_scorer(Pooling()), token_smoothing=-1)


@pytest.mark.parametrize(("kind", "window"), [("mean", 8), ("window", 0)])
def test_a_pooling_that_would_count_nothing_is_refused(kind, window):
    config = {"kind": kind, "window": window}
    with pytest.raises((ArtifactError, TypeCheckError), match=f"(?s){kind}.*{window}"):  # the latter under pytest only
        Pooling(**config)


def shapes() -> Shapes:
    """x, and -2x, between -10 and 10."""
    ends = np.array([-10.0, 10.0])
    return Shapes.piecewise_linear([ends, ends], [ends, -2 * ends])


def example_scorer(pooling: Pooling) -> Scorer:
    return Scorer(SparseEncoder(torch.eye(2), torch.zeros(2)), shapes(), -1.0, pooling)
