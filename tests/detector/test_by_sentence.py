"""A response by its worst sentence: additive, equal to a naive reading, and refused where rows are missing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groundwire.additive import Shapes
from groundwire.calibration import sigmoid
from groundwire.errors import ArtifactError, CaptureError
from groundwire.sae import SparseEncoder
from groundwire.scoring import Pooling, Scorer, Sentencewise
from groundwire.types import Readout

KNOTS = 4
POOLINGS = [Pooling("window", 1), Pooling("window", 3, 0.7, 0.3), Pooling("window", 8, 1.2)]


@dataclass
class Case:
    """Rows of one response, the last row of each of its sentences, and what its scorer is made of."""

    pooling: Pooling
    knots: np.ndarray
    heights: np.ndarray
    end_heights: np.ndarray
    features: Tensor
    ends: list[int]

    @cached_property
    def scorer(self) -> Scorer:
        knots, terms = list(self.knots), len(self.knots)
        shapes, ends = (Shapes.piecewise_linear(knots, list(h)) for h in (self.heights, self.end_heights))
        encoder = SparseEncoder(torch.zeros(terms, 2), torch.zeros(terms))
        return Scorer(encoder, shapes, -1.5, self.pooling, 0.5, 2.0, end_shapes=ends)

    @cached_property
    def whole(self) -> Readout:
        """What the fold gives, which knows no sentences."""
        scorer = self.scorer
        state = scorer.fold(scorer.new_state(1), self.features, torch.zeros(len(self.features)).long())
        return replace(scorer.finish(state, 0), features=self.features)

    @cached_property
    def found(self) -> Readout:
        return self.scorer.by_sentence(self.whole, self.ends)

    @property
    def spans(self) -> list[tuple[int, int]]:
        return list(zip([0, *(end + 1 for end in self.ends)], [end + 1 for end in self.ends], strict=False))

    def heard(self, heights: np.ndarray, rows: Tensor) -> np.ndarray:
        values = rows.double().numpy()
        return np.stack([np.interp(values[:, j], self.knots[j], heights[j]) for j in range(len(heights))], axis=1)

    def naive(self, start: int, end: int) -> np.ndarray:
        """Contributions of one sentence."""
        by_token, width = self.heard(self.heights, self.features[start:end]), self.pooling.window
        firsts = range(max(1, end - start - width + 1))
        best = max((by_token[s : s + width].mean(0) for s in firsts), key=lambda mean: mean.sum())
        return self.heard(self.end_heights, self.features[end - 1 : end])[0] + self.pooling.window_weight * best


@st.composite
def cases(draw: Any) -> Case:
    terms, rows = draw(st.integers(1, 20)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    knots = np.sort(rng.normal(size=(terms, KNOTS)), axis=1)
    heights, end_heights = rng.normal(size=(2, *knots.shape))
    ends = sorted(draw(st.sets(st.integers(0, rows - 1), min_size=1, max_size=6)))  # rows may follow the last
    features = torch.tensor(rng.normal(size=(rows, terms)), dtype=torch.float32)
    return Case(draw(st.sampled_from(POOLINGS)), knots, heights, end_heights, features, ends)


@settings(deadline=None, max_examples=25)
@given(cases())
def test_the_logit_is_intercept_and_contributions_and_that_of_the_worst_sentence(case):
    found = case.found
    assert case.scorer.intercept + sum(found.contributions.tolist()) == pytest.approx(found.logit, abs=1e-9)
    assert found.sentences is not None
    assert len(found.sentences) == len(case.ends)
    assert float(found.sentences.max()) == pytest.approx(found.logit, abs=1e-9)
    assert sigmoid(float(found.sentences.max())) == pytest.approx(sigmoid(found.logit), abs=1e-12)
    assert found.sentences.dtype == found.contributions.dtype == torch.float64


@settings(deadline=None, max_examples=25)
@given(cases())
def test_each_sentence_is_its_end_and_its_best_window(case):
    each = [case.naive(*span) for span in case.spans]
    np.testing.assert_allclose(case.found.sentences.numpy(), [-1.5 + c.sum() for c in each], atol=1e-9)
    worst = each[int(np.argmax([c.sum() for c in each]))]
    np.testing.assert_allclose(case.found.contributions.numpy(), worst, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(cases())
def test_peaks_lie_inside_the_worst_sentence(case):
    start, end = case.spans[int(case.found.sentences.argmax())]
    assert case.found.peaks.shape == (case.scorer.terms,)
    assert all(start <= peak < end for peak in case.found.peaks.tolist())


@settings(deadline=None, max_examples=25)
@given(cases())
def test_all_else_is_what_the_fold_gave(case):
    for name in ("rows", "finite", "token_logits", "mean_features", "features", "forward_seconds", "check_seconds"):
        assert getattr(case.found, name) is getattr(case.whole, name)
    assert case.whole.sentences is None


def example(pooling: Pooling = Pooling("window", 3, 1.0)) -> Scorer:  # noqa: B008
    """Two features: tokens count x and -2x, ends -3x and x."""
    ends = np.array([-10.0, 10.0])
    shapes = Shapes.piecewise_linear([ends, ends], [ends, -2 * ends])
    at_end = Shapes.piecewise_linear([ends, ends], [-3 * ends, ends])
    return Scorer(SparseEncoder(torch.eye(2), torch.zeros(2)), shapes, -1.0, pooling, end_shapes=at_end)


def read(rows: list[list[float]], ends: list[int], scorer: Scorer | None = None) -> Readout:
    scorer, features = scorer or example(), torch.tensor(rows)
    state = scorer.fold(scorer.new_state(1), features, torch.zeros(len(features)).long())
    return scorer.by_sentence(replace(scorer.finish(state, 0), features=features), ends)


def test_a_sentence_shorter_than_the_window_is_averaged_whole():
    found = read([[4.0, 0.0], [2.0, 0.5]], [1])
    assert found.contributions.tolist() == pytest.approx([3 - 6, -0.5 + 0.5])
    assert int(found.peaks[0]) == 1  # what the end says; the second moves nothing
    assert found.logit == pytest.approx(-4.0)


def test_a_peak_is_where_the_larger_part_came_from():
    scorer = replace(example(), end_shapes=example().shapes.scaled(0.1))
    assert read([[1.0, 0.0], [5.0, -1.0], [2.0, -3.0], [1.0, 0.0]], [3], scorer).peaks.tolist() == [1, 2]
    louder = replace(example(), end_shapes=example().shapes.scaled(10.0))
    assert read([[1.0, 0.0], [5.0, -1.0], [2.0, -3.0], [1.0, -1.0]], [3], louder).peaks.tolist() == [3, 3]


def test_a_window_does_not_reach_into_the_next_sentence():
    rows = [[0.0, 0.0], [6.0, 0.0], [0.0, 0.0], [0.0, 0.0], [6.0, 0.0], [0.0, 0.0]]
    assert read(rows, [2, 5]).sentences.tolist() == pytest.approx([1.0, 1.0])
    assert read(rows, [0, 5]).sentences.tolist() == pytest.approx([-1.0, 1.0])


def test_of_equal_sentences_the_first_is_the_worst():
    found = read([[1.0, 0.0], [-1.0, 0.0]] * 3, [1, 3, 5])
    assert len(set(found.sentences.tolist())) == 1
    assert set(found.peaks.tolist()) <= {0, 1}


def test_it_scores_alike_elsewhere():
    rows = [[0.5, 0.25], [2.0, -1.0], [0.0, 3.0]]
    assert read(rows, [0, 2], example().to("cpu")).logit == read(rows, [0, 2]).logit


def test_terms_of_the_texts_choose_the_worst_sentence_and_stand_behind_the_others():
    whole = read([[1.0, 0.0], [-1.0, 0.0]] * 2, [1, 3])
    more = Sentencewise(torch.tensor([[0.0, 0.0], [0.5, 0.25]]).double(), torch.tensor([[-1, -1], [2, 3]]))
    found = example().by_sentence(whole, [1, 3], more)
    assert (found.sentences - whole.sentences).tolist() == pytest.approx([0.0, 0.75])
    assert found.contributions.tolist()[-2:] == [0.5, 0.25]
    assert found.peaks.tolist()[-2:] == [2, 3]
    assert -1.0 + float(found.contributions.sum()) == pytest.approx(found.logit) == pytest.approx(found.sentences.max())


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "ends", "words"),
    [
        ({"features": None}, [1], "features None"),
        ({}, [], r"sentence ends \[\]"),
        ({}, [0, 2], r"sentence ends \[0, 2\] and features \[2, 2\]"),
        ({"features": torch.zeros(0, 2)}, [0], r"features \[0, 2\]"),
    ],
)
def test_missing_rows_are_refused(change: dict[str, Any], ends: list[int], words: str) -> None:
    whole = replace(read([[1.0, 0.0], [2.0, 0.0]], [1]), **change)
    with pytest.raises(CaptureError, match=words) as caught:
        example().by_sentence(whole, ends)
    assert "keep features" in caught.value.remedy


def test_a_scorer_without_end_shapes_reads_no_sentences():
    whole = read([[1.0, 0.0]], [0])
    with pytest.raises(CaptureError, match="sentence ends") as caught:
        replace(example(), end_shapes=None).by_sentence(whole, [0])
    assert "a scorer with end shapes" in caught.value.expected


def test_end_shapes_with_pooled_maxima_are_refused():
    with pytest.raises(ArtifactError, match="sentence ends with pooling 'max'") as caught:
        example(Pooling("max"))
    assert 'pooling "window"' in caught.value.expected
