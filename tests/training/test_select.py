from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from groundwire.errors import InputError
from groundwire.training.select import mutual_information, select


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    features = rng.normal(size=(200, 700)).astype(np.float32)  # more than one chunk
    features[:, 600] += 3 * labels
    features[:, 3] += 2 * labels
    return features, labels


def test_equals_sklearn_on_the_same_bins(rows):
    features, labels = rows
    got = mutual_information(features, labels)
    for i in (0, 3, 511, 512, 600, 699):
        column = features[:, i]
        scaled = (column - column.min()) / (column.max() - column.min()) * 50
        assert got[i] == pytest.approx(mutual_info_score(np.minimum(scaled.astype(int), 49), labels), abs=1e-9)


def test_a_constant_feature_tells_nothing_and_a_copy_of_the_label_tells_all():
    labels = np.array([0, 0, 1, 1, 1])
    features = np.stack([np.full(5, 7.0), labels.astype(float)], axis=1)
    entropy = -(0.4 * np.log(0.4) + 0.6 * np.log(0.6))
    np.testing.assert_allclose(mutual_information(features, labels), [0, entropy], atol=1e-15)


def test_selects_the_most_informative_first(rows):
    assert select(*rows, 2).tolist() == [600, 3]
    assert len(select(*rows, 10_000)) == 700
    repeated = np.repeat(rows[0][:, :1], 3, axis=1)
    assert select(repeated, rows[1], 3).tolist() == [0, 1, 2]  # ties keep their order


def test_refuses_what_it_cannot_count(rows):
    features, labels = rows
    with pytest.raises(InputError, match="NaN"):
        mutual_information(np.where(features > 2, np.nan, features), labels)
    with pytest.raises(InputError, match="both 0 and 1"):
        mutual_information(features, np.zeros(200, int))
