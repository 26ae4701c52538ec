"""The artifact of a checking reader, alone and inside another: what is saved is what is loaded, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwire.adapter import CONFIG, WEIGHTS
from groundwire.artifact import CHECKING, FORMAT_VERSION, Artifact
from groundwire.batch.identity import digest
from groundwire.calibration import log_odds
from groundwire.detector import Detector
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import ArtifactError
from groundwire.spans import SpanRule
from groundwire.training.calibrate import Calibrated
from groundwire.training.recalibrate import recalibrated
from groundwire.types import Example
from tests.detector.tiny import checking_artifact, grounded, random_artifact, tiny_engine, user

EXAMPLE = Example("a", user("Passage 1: The bridge was finished in 1889. When?"), "It was built in 1901. In Lisbon.")


@pytest.fixture(scope="module")
def engine(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture(scope="module")
def whole(engine: TransformersEngine) -> Artifact:
    """A detector that has a checking reader."""
    return replace(grounded(random_artifact(engine, "max")), checking=checking_artifact(engine))


@pytest.fixture
def folder(whole: Artifact, tmp_path: Path) -> Path:
    whole.save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_saved_and_loaded_both_are_the_same(whole: Artifact, folder: Path, engine: TransformersEngine) -> None:
    after = Artifact.from_pretrained(folder)
    assert after.adapter is None
    assert after.scorer.end_shapes is None
    before, second = whole.checking, after.checking
    assert before is not None
    assert second is not None
    assert second.checking is None
    assert (second.id, second.thresholds, second.terms) == (before.id, before.thresholds, before.terms)
    assert (after.focus, second.focus) == (0, 1)
    for name in ("cuts", "values", "slopes"):
        assert torch.equal(getattr(second.scorer.end_shapes, name), getattr(before.scorer.end_shapes, name))
    assert second.adapter is not None
    assert before.adapter is not None
    assert set(second.adapter.weights) == set(before.adapter.weights)
    readers = [Detector(a, engine.adapted(second.adapter), threshold=0.5) for a in (before, second)]
    first, again = (reader.score(EXAMPLE) for reader in readers)
    assert len(first.sentences) == 2
    assert replace(first, forward_seconds=0.0, check_seconds=0.0) == replace(
        again, forward_seconds=0.0, check_seconds=0.0
    )


def test_where_everything_lies(folder: Path) -> None:
    files = {"config.json", "detector.safetensors", "features.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == {*files, CHECKING}
    assert {path.name for path in (folder / CHECKING).iterdir()} == {*files, CONFIG, WEIGHTS}
    assert json.loads((folder / CHECKING / CONFIG).read_text())["base_model_name_or_path"] == "tiny-llama"
    assert "ends.cuts" in load_file(folder / CHECKING / "detector.safetensors")
    assert "ends.cuts" not in load_file(folder / "detector.safetensors")


def test_what_is_no_longer_there_is_not_read_from_an_older_save(whole: Artifact, folder: Path) -> None:
    replace(whole, checking=None).save_pretrained(folder)
    assert Artifact.from_pretrained(folder).checking is None


def test_a_folder_of_version_2_is_read(engine: TransformersEngine, tmp_path: Path) -> None:
    artifact = grounded(random_artifact(engine, "window"))
    artifact.save_pretrained(tmp_path)
    new = Artifact.from_pretrained(tmp_path)

    def older(config: dict[str, Any]) -> None:
        assert config["format_version"] == FORMAT_VERSION == 4
        config["format_version"] = 2
        for name in ("ends", "adapter", "focus", "binding", CHECKING):
            del config[name]

    edit(tmp_path, older)
    found = Artifact.from_pretrained(tmp_path)
    assert (found.scorer.end_shapes, found.adapter, found.focus, found.checking) == (None, None, 0, None)
    assert digest(found) == digest(new)


def test_another_prevalence_shifts_both(whole: Artifact) -> None:
    after, shift = whole.at_prevalence(0.8), log_odds(0.8) - log_odds(0.3)
    for before, moved in ((whole, after), (whole.checking, after.checking)):
        assert before is not None
        assert moved is not None
        assert moved.prevalence == 0.8
        assert moved.scorer.intercept == pytest.approx(before.scorer.intercept + shift)
        for name, score in before.thresholds.items():
            expected = score if score == 0 else log_odds(score) + shift
            assert (moved.thresholds[name] if score == 0 else log_odds(moved.thresholds[name])) == pytest.approx(
                expected
            )
    assert after.checking is not None
    assert after.checking.adapter is whole.checking.adapter  # type: ignore[union-attr]
    assert after.checking.scorer.end_shapes is whole.checking.scorer.end_shapes  # type: ignore[union-attr]


def test_where_spans_may_lie_moves_with_the_scores(whole: Artifact) -> None:
    assert whole.checking is not None
    ruled = replace(whole.checking, spans=SpanRule(sentence=0.5, fault=1.0))
    assert log_odds(ruled.at_prevalence(0.8).spans.sentence) == pytest.approx(log_odds(0.8) - log_odds(0.3))
    assert ruled.at_prevalence(0.8).spans.fault == 1.0
    moved = recalibrated(ruled, Calibrated(2.0, 0.3, 0.4, {"balanced_accuracy": 0.4}), {}).spans
    assert log_odds(moved.sentence) == pytest.approx(0.3)
    assert moved.fault == 2.0
    assert whole.at_prevalence(0.8).checking.spans.sentence == 0.0  # type: ignore[union-attr]


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (CONFIG, "no readable adapter in .*checking"),
        (WEIGHTS, "no readable adapter in .*checking"),
        ("config.json", "no readable detector in .*checking"),
        ("detector.safetensors", "no readable detector in .*checking"),
    ],
)
def test_a_missing_file_is_refused(folder: Path, name: str, words: str) -> None:
    (folder / CHECKING / name).unlink()
    with pytest.raises(ArtifactError, match=words):
        Artifact.from_pretrained(folder)


def test_lost_ends_are_refused(folder: Path) -> None:
    path = folder / CHECKING / "detector.safetensors"
    save_file({k: v for k, v in load_file(path).items() if k != "ends.slopes"}, path)
    with pytest.raises(ArtifactError, match=r"ends\.slopes"):
        Artifact.from_pretrained(folder)


def test_ends_of_another_number_of_terms_are_refused(folder: Path) -> None:
    path = folder / CHECKING / "detector.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"ends.{n}": tensors[f"ends.{n}"][:5].clone() for n in ("cuts", "values", "slopes")}, path)
    with pytest.raises(ArtifactError, match="5 shapes of sentence ends"):
        Artifact.from_pretrained(folder)


@pytest.mark.parametrize("focus", [-1, "2", True, 1.5, None])
def test_a_focus_that_is_no_number_of_sentences_is_refused(folder: Path, focus: Any) -> None:
    edit(folder / CHECKING, lambda config: config.update(focus=focus))
    with pytest.raises(ArtifactError, match="a focus of"):
        Artifact.from_pretrained(folder)


def test_ends_with_pooled_maxima_are_refused(folder: Path) -> None:
    edit(folder / CHECKING, lambda config: config["pooling"].update(kind="max"))
    with pytest.raises(ArtifactError, match="sentence ends with pooling 'max'"):
        Artifact.from_pretrained(folder)
