from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpret.glassbox import ExplainableBoostingClassifier

from groundwire.errors import ArtifactError, InputError
from groundwire.training import fit
from groundwire.training.fit import Fitted, export, fit_ebm


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    features = rng.normal(size=(120, 6)).astype(np.float32)
    features[:, 0] += labels
    features[:, 2] = 4.0  # constant: no cuts
    features[:, 3] = labels ^ (rng.random(120) < 0.2)  # two values: one cut
    features[:, 4] = np.maximum(features[:, 4], 0)  # a rectified latent
    return features, labels


@pytest.fixture(scope="module")
def fitted(rows) -> Fitted:
    return fit_ebm(*rows, seed=1)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_table_equals_ebm(fitted, rows, data):
    """Anywhere: between cuts, exactly on them, one step below, beyond both ends, and at values seen in training."""
    cuts = [shape[shape.isfinite()].tolist() for shape in fitted.shapes.cuts]
    edges = [[*c, *np.nextafter(c, -np.inf), -1e30, 1e30, 0.0, *seen] for c, seen in zip(cuts, rows[0].T, strict=True)]
    row = st.tuples(*(st.sampled_from(e).map(float) | st.floats(-5, 5) for e in edges))
    features = np.array(data.draw(st.lists(row, min_size=1, max_size=8)))
    np.testing.assert_allclose(fitted.logits(features), fitted.model.decision_function(features), atol=1e-12)


def test_contributions_equal_those_of_interpretml(fitted, rows):
    features, _ = rows
    terms = [term[0] for term in fitted.model.term_features_]
    got = fitted.shapes(torch.from_numpy(features)).numpy()[:, terms]
    np.testing.assert_allclose(got, fitted.model.eval_terms(features), atol=1e-12)


def test_the_same_seed_gives_the_same_model(fitted, rows):
    again, other = fit_ebm(*rows, seed=1), fit_ebm(*rows, seed=2)
    assert again.intercept == fitted.intercept
    assert np.array_equal(again.logits(rows[0]), fitted.logits(rows[0]))
    assert not np.array_equal(other.logits(rows[0]), fitted.logits(rows[0]))


def test_two_valued_and_constant_features_keep_their_place(fitted):
    assert fitted.shapes.terms == 6
    assert fitted.shapes.cuts[2].isinf().all()
    assert fitted.shapes.cuts[3].isfinite().sum() == 1


def test_refuses_an_ebm_it_cannot_export(rows, monkeypatch):
    interacting = ExplainableBoostingClassifier(interactions=[(0, 1)], max_rounds=5, outer_bags=1, n_jobs=1)
    with pytest.raises(ArtifactError, match="interaction"):
        export(interacting.fit(*rows))
    monkeypatch.setattr(fit, "export", lambda model: export(model).scaled(1.001))
    with pytest.raises(ArtifactError, match="exported arrays and EBM differ"):
        fit_ebm(*rows)


def test_refuses_rows_it_cannot_learn_from(rows):
    features, labels = rows
    with pytest.raises(InputError, match="NaN"):
        fit_ebm(np.where(features > 1, np.nan, features), labels)
    with pytest.raises(InputError, match="both 0 and 1"):
        fit_ebm(features, np.ones(120, int))


def test_reads_features_that_lie_on_disk(fitted, rows, tmp_path):
    np.save(tmp_path / "features.npy", rows[0])
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    assert np.array_equal(fitted.logits(mapped), fitted.logits(rows[0]))
