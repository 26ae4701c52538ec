from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError
from groundwire.sae import Dictionary
from groundwire.training import detector as training
from groundwire.training import fit
from groundwire.training.data import LabelledExample
from groundwire.training.detector import out_of_fold, train_detector
from groundwire.training.features import Features, collect_features
from groundwire.training.metrics import auc

HOOKPOINT = "model.layers.2"
TRUE, FALSE = "It was built in 1889.", "A keeper from Lisbon says so."


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setitem(fit.RECIPE, "max_rounds", 20)
    monkeypatch.setitem(fit.RECIPE, "outer_bags", 2)


def example(number):
    """30 questions with a faithful and an unfaithful answer each; of another data set from the 20th on."""
    question, label = divmod(number, 2)
    messages = [{"role": "user", "content": f"Passage 1: The bridge {question}. Question: who built it?"}]
    response = (FALSE if label else TRUE) + f" Bridge {question}."
    spans = ((0, len(FALSE)),) if label else ()
    dataset = "first" if question < 20 else "second"
    return LabelledExample(str(number), messages, response, label, spans, f"q{question}", f"m{number % 3}", dataset)


@pytest.fixture(scope="module")
def examples():
    return [example(i) for i in range(60)]


@pytest.fixture(scope="module")
def dictionary():
    encoder, decoder = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(0))
    return Dictionary(encoder, torch.zeros(12), decoder, torch.zeros(32), "relu", hookpoint=HOOKPOINT)


@pytest.fixture
def engine(tiny):
    return TransformersEngine(tiny, HOOKPOINT)


@pytest.fixture
def features(engine, dictionary, examples, tmp_path):
    return collect_features(engine, dictionary, examples, tmp_path / "features")


def noise(examples, latents=6, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, len(examples)).astype(np.int32)
    peaks = (rng.random((len(examples), latents)) * lengths[:, None]).astype(np.int32)
    return Features(rng.normal(size=(len(examples), latents)).astype(np.float32), peaks, lengths)


def test_no_fold_is_chosen_or_fitted_on_a_group_it_is_tested_on(examples, monkeypatch):
    """Whatever select and fit_ebm are given, no row of a test group is among it, and every row is tested once."""
    features, seen, tested = noise(examples), [], []
    number_of = {row.tobytes(): i for i, row in enumerate(features.maximum)}
    split, select = training.folds, training.select
    monkeypatch.setattr(training, "folds", lambda *args: [tested.append(t) or (r, t) for r, t in split(*args)])
    monkeypatch.setattr(
        training, "select", lambda rows, *a: seen.append([number_of[r.tobytes()] for r in rows]) or select(rows, *a)
    )
    found = out_of_fold(features, examples, n_latents=4)
    assert sorted(np.concatenate(tested).tolist()) == list(range(60))
    for rows, test in zip(seen, tested, strict=True):
        assert not {examples[i].group for i in rows} & {examples[i].group for i in test}
    assert np.isfinite(found.logits).all()


def test_what_a_latent_knows_of_the_group_alone_is_not_learned(examples):
    """Labels that depend on the group, features that name the group: no better than chance on unseen groups."""
    rng = np.random.default_rng(1)
    label_of, code_of = rng.permutation(30) % 2, rng.normal(size=(30, 6)).astype(np.float32)
    rows = [replace(e, label=int(label_of[int(e.group[1:])])) for e in examples]
    maximum = np.stack([code_of[int(e.group[1:])] for e in rows])
    found = out_of_fold(Features(maximum, noise(rows).peak, noise(rows).length), rows, n_latents=6)
    assert 0.2 < auc(np.array([e.label for e in rows]), found.logits) < 0.8


def test_token_sums_add_up_to_the_logit(examples):
    """Within a fold the intercept is what remains: logit minus the sum over tokens takes one value per fold."""
    features = noise(examples)
    found = out_of_fold(features, examples, n_latents=4)
    intercepts = [logit - sums.sum() for logit, sums in zip(found.logits, found.token_sums, strict=True)]
    assert len(np.unique(np.round(intercepts, 9))) <= 5
    assert [len(sums) for sums in found.token_sums] == features.length.tolist()


def test_a_response_without_tokens_has_no_token_sums(examples):
    features = noise(examples)
    features.length[7], features.peak[7] = 0, -1
    assert len(out_of_fold(features, examples, n_latents=4).token_sums[7]) == 0


def test_the_same_seed_gives_the_same_logits(examples):
    features = noise(examples)
    first, second, other = (out_of_fold(features, examples, n_latents=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.logits, second.logits)
    assert not np.array_equal(first.logits, other.logits)


def test_too_few_groups_are_refused(examples):
    with pytest.raises(InputError, match="occurs in 4 groups"):
        out_of_fold(noise(examples[:8]), examples[:8], n_latents=4)


@pytest.fixture
def artifact(examples, features, dictionary, engine):
    return train_detector(
        examples,
        features,
        dictionary,
        engine,
        detector_id="tiny",
        version="7",
        n_latents=6,
        describe=lambda ids: {i: {"label": f"latent {i}"} for i in ids},
        about={"seed": 0},
    )


def test_a_trained_detector_loads_and_tells_answers_apart(artifact, engine, examples, tmp_path):
    artifact.save_pretrained(tmp_path / "detector")
    detector = Detector.from_pretrained(tmp_path / "detector", engine=engine)
    scores = np.array([d.score for d in detector.score_batch(examples)])
    labels = np.array([e.label for e in examples])
    assert scores[labels == 1].mean() > detector.threshold > scores[labels == 0].mean()
    assert detector.score(examples[1]).contributions[0].term.name.startswith("latent ")
    loaded = Artifact.from_pretrained(tmp_path / "detector")
    assert (loaded.id, loaded.version, loaded.hookpoint, len(loaded.terms)) == ("tiny", "7", HOOKPOINT, 6)


def test_the_detector_scores_by_the_calibrated_additive_model(artifact, engine, features, examples):
    """From collected features, by hand: what the served path gives for the same rows."""
    scorer, ids = artifact.scorer, [term.feature_id for term in artifact.terms]
    logits = scorer.intercept + scorer.shapes(torch.from_numpy(features.maximum[:, ids])).sum(-1).numpy()
    detector = Detector(artifact, engine, threshold=0.5)
    served = [d.logit for d in detector.score_batch(examples)]
    # Steps of an EBM: a rounding difference may put a value on the other side of a cut.
    assert np.mean(np.isclose(served, logits, atol=1e-4)) > 0.9


def test_its_figures_are_out_of_fold_and_by_data_set(artifact, features, examples):
    unseen = out_of_fold(features, examples, n_latents=6)
    by_name = {entry["dataset"]: entry for entry in artifact.about["figures"]}
    assert list(by_name) == ["first", "second"]
    assert (by_name["first"]["rows"], by_name["second"]["rows"]) == (40, 20)
    rows = np.array([e.dataset == "first" for e in examples])
    labels = np.array([e.label for e in examples])
    assert by_name["first"]["auc"] == pytest.approx(auc(labels[rows], unseen.logits[rows]))
    assert by_name["first"]["split"] == "5-fold by group"
    assert artifact.prevalence == 0.5
    assert artifact.about["tokens"]["token_auc"] is not None
