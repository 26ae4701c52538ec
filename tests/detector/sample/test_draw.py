from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.errors import InputError
from groundwire.sample.draw import draw


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(16, 400), st.integers(0, 3))
def test_as_many_rows_as_asked_for_each_once_with_the_chance_it_had(scores, number, seed):
    found = draw(np.array(scores), number, seed=seed)
    assert len(set(found.rows.tolist())) == len(found.rows) == min(number, len(scores))
    assert sum(stratum.rows for stratum in found.strata) == len(scores)
    weights = [1 / found.strata[member].probability for member in found.member]
    assert sum(weights) == pytest.approx(len(scores))
    for row, member in zip(found.rows, found.member, strict=True):
        assert found.strata[member].low <= scores[row] <= found.strata[member].high


def test_more_rows_where_the_detector_is_in_doubt_and_some_everywhere():
    scores = np.concatenate([np.linspace(0, 0.01, 7000), np.linspace(0.4, 0.6, 1000)])
    strata = draw(scores, 200).strata
    assert strata[-1].probability > 1.3 * strata[0].probability
    assert min(stratum.probability for stratum in strata) > 0.5 * 200 / 8000


def test_a_seed_gives_the_same_rows():
    scores = np.random.default_rng(0).random(1000)
    assert draw(scores, 100, seed=1).rows.tolist() == draw(scores, 100, seed=1).rows.tolist()
    assert draw(scores, 100, seed=1).rows.tolist() != draw(scores, 100, seed=2).rows.tolist()


def test_no_rows_and_too_few_labels_are_refused():
    with pytest.raises(InputError, match="no row was checked"):
        draw(np.array([]), 100)
    with pytest.raises(InputError, match="at least 16"):
        draw(np.linspace(0, 1, 100), 15)
