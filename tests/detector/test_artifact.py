"""Artifacts: what is saved is what is loaded, and nothing is loaded that does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwire.artifact import Artifact
from groundwire.detector import Detector
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import ArtifactError
from groundwire.types import Example
from tests.detector.tiny import grounded, random_artifact, tiny_engine, user

EXAMPLE = Example("a", user("Passage 1: The bridge was finished in 1889. When?"), "It was built in 1901, in Lisbon.")
FILES = {"config.json", "detector.safetensors", "features.json", "README.md"}


@pytest.fixture
def engine(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture
def folder(engine: TransformersEngine, tmp_path: Path) -> Path:
    random_artifact(engine).save_pretrained(tmp_path / "detector")
    return tmp_path / "detector"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    path = folder / "detector.safetensors"
    save_file(load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)


@pytest.mark.parametrize(("kind", "more"), [("max", False), ("window", False), ("max", True), ("window", True)])
def test_saved_and_loaded_it_gives_identical_scores(
    engine: TransformersEngine, tmp_path: Path, kind: Literal["max", "window"], more: bool
) -> None:
    before = grounded(random_artifact(engine, kind)) if more else random_artifact(engine, kind)
    before.save_pretrained(tmp_path)
    after = Artifact.from_pretrained(tmp_path)
    after.check_engine(engine)
    first, second = (Detector(artifact, engine, threshold=0.5).score(EXAMPLE) for artifact in (before, after))
    assert replace(first, forward_seconds=0.0, check_seconds=0.0) == replace(
        second, forward_seconds=0.0, check_seconds=0.0
    )
    for name in ("id", "version", "model", "hookpoint", "terms", "prevalence", "spans", "latents", "about", "card"):
        assert getattr(after, name) == getattr(before, name)
    assert after.thresholds == before.thresholds
    assert after.fingerprint == before.fingerprint
    assert after.scorer.pooling == before.scorer.pooling
    assert after.scorer.token_smoothing == before.scorer.token_smoothing == 2 * more
    assert (after.grounding is not None) == (after.unlike is not None) == more
    assert (first.unlike_training is not None) == more
    if after.grounding and before.grounding:
        assert after.grounding.names == before.grounding.names


def test_an_encoder_without_thresholds_stays_without(engine: TransformersEngine, tmp_path: Path) -> None:
    artifact = random_artifact(engine)
    encoder = replace(artifact.scorer.encoder, threshold=None, rectify=True)
    replace(artifact, scorer=replace(artifact.scorer, encoder=encoder)).save_pretrained(tmp_path)
    loaded = Artifact.from_pretrained(tmp_path).scorer.encoder
    assert loaded.threshold is None
    assert loaded.rectify


def test_the_folder_holds_json_safetensors_and_a_card_alone(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    assert set(load_file(folder / "detector.safetensors")) > {"encoder.weight", "shapes.cuts", "probe.row"}
    assert isinstance(json.loads((folder / "config.json").read_text()), dict)
    assert (folder / "README.md").read_text() == "# tiny\n"


def test_it_can_be_saved_over_an_older_one(folder: Path) -> None:
    replace(Artifact.from_pretrained(folder), version="2").save_pretrained(folder)
    assert Artifact.from_pretrained(folder).version == "2"


# -- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("part", "words"), [("tokenizer", "tokenizer"), ("chat_template", "chat template")])
def test_another_tokenizer_or_template_is_refused(
    folder: Path, engine: TransformersEngine, part: str, words: str
) -> None:
    reader = replace(engine.reader, fingerprint=engine.reader.fingerprint | {part: "another"})
    with pytest.raises(ArtifactError, match=f"its {words} differs: another") as caught:
        Artifact.from_pretrained(folder).check_engine(TransformersEngine(reader, engine.hookpoint))
    assert "tiny-llama" in caught.value.remedy


def test_a_detector_without_a_fingerprint_is_refused(folder: Path, engine: TransformersEngine) -> None:
    edit(folder, lambda config: config["fingerprint"].clear())
    with pytest.raises(ArtifactError, match="its tokenizer differs"):
        Artifact.from_pretrained(folder).check_engine(engine)


def test_another_hookpoint_is_refused(folder: Path, engine: TransformersEngine) -> None:
    with pytest.raises(ArtifactError, match=r"its hookpoint differs: model\.layers\.1"):
        Artifact.from_pretrained(folder).check_engine(TransformersEngine(engine.reader, "model.layers.1"))


def test_another_model_of_the_same_build_is_refused(folder: Path, engine: TransformersEngine) -> None:
    for parameter in engine.model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)) * 0.3)
    with pytest.raises(ArtifactError, match="its model differs: activations with cosine"):
        Artifact.from_pretrained(folder).check_engine(engine)


def test_broken_weights_are_another_model(folder: Path, engine: TransformersEngine) -> None:
    next(engine.model.parameters()).fill_(torch.nan)
    with pytest.raises(ArtifactError, match="cosine nan"):
        Artifact.from_pretrained(folder).check_engine(engine)


def test_a_model_of_another_width_is_refused(folder: Path, engine: TransformersEngine) -> None:
    from transformers import LlamaForCausalLM

    config = type(engine.model.config)(**engine.model.config.to_dict() | {"hidden_size": 16, "head_dim": 4})
    narrow = replace(engine.reader, model=LlamaForCausalLM(config).eval())
    with pytest.raises(ArtifactError, match="its width differs: 16 dimensions"):
        Artifact.from_pretrained(folder).check_engine(TransformersEngine(narrow, engine.hookpoint))


def test_the_same_weights_in_bfloat16_fit(folder: Path, tiny_llama_folder: Path) -> None:
    Artifact.from_pretrained(folder).check_engine(tiny_engine(tiny_llama_folder, dtype="bfloat16"))


# -- what is broken -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        Artifact.from_pretrained(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no readable detector"):
        Artifact.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.json", "detector.safetensors", "features.json"])
def test_a_truncated_file_is_refused(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="no readable detector"):
        Artifact.from_pretrained(folder)


@pytest.mark.parametrize("version", [1, 5, None])
def test_another_format_version_is_refused(folder: Path, version: int | None) -> None:
    edit(folder, lambda config: config.update(format_version=version))
    with pytest.raises(ArtifactError, match=f"has format version {version}") as caught:
        Artifact.from_pretrained(folder)
    assert "install the groundwire version that wrote it" in caught.value.remedy


def test_json_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("[1, 2]")
    with pytest.raises(ArtifactError, match="has format version None"):
        Artifact.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["pooling"].update(decay=0.9), "decay"),
        (lambda c: c["pooling"].pop("kind"), "kind"),
        (lambda c: c["pooling"].update(kind="median"), "[Pp]ooling(?s:.*)median"),
        (lambda c: c["pooling"].update(window=0), "pooling .*window of 0"),
        (lambda c: c.update(token_smoothing=-1), "token smoothing over -1"),
        (lambda c: c.pop("token_smoothing"), "token_smoothing"),
        (lambda c: c.pop("unlike"), "unlike"),
        (lambda c: c.pop("ends"), "ends"),
        (lambda c: c.pop("adapter"), "adapter"),
        (lambda c: c.pop("checking"), "checking"),
        (lambda c: c["spans"].update(padding=3), "padding"),
        (lambda c: c["terms"][0].update(colour="red"), "colour"),
        (lambda c: c["terms"].pop(), "11 token terms"),
        (lambda c: c.pop("intercept"), "intercept"),
        (lambda c: c.update(activation=None), "activation|NoneType"),
    ],
)
def test_unknown_missing_and_odd_keys_are_refused(folder: Path, change: Callable[..., Any], words: str) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=words):
        Artifact.from_pretrained(folder)


@pytest.fixture
def full(engine: TransformersEngine, tmp_path: Path) -> Path:
    """An artifact with grounding terms and distances to the training data."""
    grounded(random_artifact(engine)).save_pretrained(tmp_path / "full")
    return tmp_path / "full"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["grounding"].__setitem__(1, "colour"), r"terms \['colour'\]"),
        (lambda c: c["grounding"].pop(), "3 shapes for the terms"),
        (lambda c: c["terms"].pop(), "2 terms of the texts, 3 their names"),
        (lambda c: c.update(grounding=None), "3 terms of the texts, 0 their names"),
        (lambda c: c["terms"].reverse(), "among the token terms"),
        (lambda c: c["terms"][0].update(kind="grounding"), "11 token terms"),
        (lambda c: c["unlike"].update(flag_above=2.0), "flagged above 2.0"),
        (lambda c: c["unlike"].update(colour=1), "colour"),
    ],
)
def test_odd_grounding_and_distances_are_refused(full: Path, change: Callable[..., Any], words: str) -> None:
    edit(full, change)
    with pytest.raises(ArtifactError, match=words):
        Artifact.from_pretrained(full)


def test_an_unknown_grounding_term_asks_for_a_newer_version(full: Path) -> None:
    edit(full, lambda config: config["grounding"].__setitem__(0, "rhymes"))
    with pytest.raises(ArtifactError, match="install a newer version"):
        Artifact.from_pretrained(full)


def test_distances_of_another_number_of_terms_are_refused(full: Path) -> None:
    edit_tensors(full, unlike__mean=torch.zeros(3), unlike__projection=torch.zeros(2, 3))
    with pytest.raises(ArtifactError, match="3 training means"):
        Artifact.from_pretrained(full)


def test_another_prevalence_leaves_grounding_and_distances_alone(full: Path) -> None:
    before = Artifact.from_pretrained(full)
    after = before.at_prevalence(0.8)
    assert after.grounding is before.grounding
    assert after.unlike is before.unlike


def test_tensors_that_do_not_belong_together_are_refused(folder: Path) -> None:
    edit_tensors(folder, probe__row=torch.zeros(16))
    with pytest.raises(ArtifactError, match="32 encoder columns, 16 probe dimensions"):
        Artifact.from_pretrained(folder)
