"""Which reading gives the verdict: what is asked for, what artifact and engine have, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from groundwire.adapter import Adapter
from groundwire.artifact import CHECKING, Artifact
from groundwire.batch.described import Described
from groundwire.batch.recipe import Recipe
from groundwire.detector import Detector
from groundwire.engines.fake import FakeEngine, fake_detector
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import ArtifactError, CaptureError, InputError
from groundwire.types import Example
from tests.detector.tiny import checked_artifact, random_artifact, tiny_engine, user

EXAMPLE = Example("a", user("The lighthouse was finished in 1889. When?"), "It was built in 1889. It is high.")


@pytest.fixture(scope="module")
def engine(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture(scope="module")
def saved(engine: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors") / "whole"
    checked_artifact(engine).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def detector(saved: Path, engine: TransformersEngine) -> Detector:
    return Detector.from_pretrained(saved, engine=engine)


def test_thresholds_are_those_of_the_one_that_judges(detector: Detector, saved: Path, tiny_llama_folder: Path) -> None:
    assert detector.threshold == detector.checking.threshold == 0.6  # type: ignore[union-attr]
    assert detector.thresholds == {"balanced_accuracy": 0.6, "recall": 0.35, "always": 0.0}
    assert detector.artifact.thresholds["recall"] == 0.25
    loaded = Detector.from_pretrained(saved, model=tiny_llama_folder, target="recall", prevalence=0.5)
    assert loaded.checking is not None
    assert loaded.threshold == loaded.checking.artifact.thresholds["recall"] > 0.35
    recipe = Recipe(str(saved), str(tiny_llama_folder))
    assert recipe.read_threshold() == recipe.load().threshold == 0.6
    assert replace(recipe, engine="vllm").read_threshold() == 0.5


def test_a_run_is_known_by_the_one_that_judges(detector: Detector, saved: Path, engine: TransformersEngine) -> None:
    own = Detector.from_pretrained(saved, engine=engine, reading="own")
    ours, other = Described.of(detector), Described.of(own)
    assert ours.identity != other.identity
    assert "reading" not in other.identity
    assert (ours.features or {})["detector"] == "tiny-checking"


def test_a_checking_reader_that_is_not_there_cannot_be_asked_for(
    saved: Path, engine: TransformersEngine, tmp_path: Path
) -> None:
    assert Detector.from_pretrained(saved, engine=engine, reading="checking").checking is not None
    random_artifact(engine).save_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path, engine=engine).checking is None
    with pytest.raises(InputError, match="the checking reader of tiny, with TransformersEngine") as caught:
        Detector.from_pretrained(tmp_path, engine=engine, reading="checking")
    assert 'ask for the reading "own"' in caught.value.remedy


def test_an_engine_that_knows_no_adapters_reads_by_itself(tmp_path: Path) -> None:
    artifact = fake_detector().artifact
    adapter = Adapter({"model.layers.0.q": (torch.ones(1, 8), torch.ones(8, 1))}, 1.0)
    replace(artifact, checking=replace(artifact, adapter=adapter)).save_pretrained(tmp_path)
    found = Detector.from_pretrained(tmp_path, engine=FakeEngine())
    assert found.checking is None
    assert found.score(EXAMPLE).detector["reading"] == "own"  # type: ignore[index]
    with pytest.raises(InputError, match="with FakeEngine"):
        Detector.from_pretrained(tmp_path, engine=FakeEngine(), reading="checking")


def test_a_checking_reader_of_another_layer_or_model_is_refused(
    detector: Detector, engine: TransformersEngine, tmp_path: Path
) -> None:
    whole = detector.artifact
    assert whole.checking is not None
    replace(whole, checking=replace(whole.checking, hookpoint="model.layers.1")).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="detector tiny-checking does not fit: its hookpoint differs"):
        Detector.from_pretrained(tmp_path, engine=engine)
    wide = Adapter({"model.layers.0.mlp.up_proj": (torch.ones(1, 48), torch.ones(64, 1))}, 1.0)
    replace(whole, checking=replace(whole.checking, adapter=wide)).save_pretrained(tmp_path)
    with pytest.raises(CaptureError, match="48 inputs"):
        Detector.from_pretrained(tmp_path, engine=engine)


def test_the_checking_reader_s_artifact_is_no_detector_by_itself(saved: Path, engine: TransformersEngine) -> None:
    assert Artifact.from_pretrained(saved / CHECKING).adapter is not None
    with pytest.raises(ArtifactError, match="tiny-checking is the artifact of a checking reader alone"):
        Detector.from_pretrained(saved / CHECKING, engine=engine)
