"""Who gives the verdicts: the model's own detector, or the reader beside it; and what keeps a server from starting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundwire import __version__
from groundwire.artifact import Artifact, Probe
from groundwire.errors import ArtifactError, CaptureError, InputError, ModelError
from groundwire.server.settings import Settings
from groundwire.server.vllm import fit as module
from groundwire.server.vllm.fit import FLAG, Beside, Model, Own, differs, fit, read_artifact, training_commands
from tests.conftest import CHAT_TEMPLATE
from tests.server.vllm.conftest import WIDTH, Engine

STOCK = SimpleNamespace(chat_template=None)


def fitted(engine: Engine, args: Any = STOCK, **settings: Any) -> Own | Beside:
    async def main() -> Own | Beside:
        return await fit(engine, args, Settings(**settings))

    return asyncio.run(asyncio.wait_for(main(), 20))


@pytest.fixture
def unnamed(monkeypatch) -> Callable[[Path], None]:
    """`unnamed(folder)`: the detector that ships is the one in this folder."""
    return lambda folder: monkeypatch.setattr(module, "DEFAULT_ARTIFACT", folder)


@pytest.fixture
def changed(artifact, tmp_path) -> Callable[..., Path]:
    """`changed(**fields)`: the folder of a detector that differs in these."""

    def save(**fields: Any) -> Path:
        replace(artifact, **fields).save_pretrained(tmp_path / "changed")
        return tmp_path / "changed"

    return save


@pytest.fixture
def other(tiny_llama_folder, identity) -> Iterator[Callable[[Path], Engine]]:
    """`other(folder)`: an engine whose worker has the detector in this folder."""
    made: list[Engine] = []

    def make(folder: Path) -> Engine:
        made.append(Engine(tiny_llama_folder, folder, identity.tokenizer))
        return made[-1]

    yield make
    for engine in made:
        engine.worker.shutdown()


def other_part(artifact: Artifact, part: str) -> dict[str, Any]:
    return {"fingerprint": {**artifact.fingerprint, part: "another"}}


# -- as far as files tell


def test_a_detector_belongs_to_tokenizer_template_and_width(artifact, identity):
    assert differs(artifact, identity, WIDTH) is None
    for part, said in (("tokenizer", "another tokenizer"), ("chat_template", "another chat template")):
        assert said in (differs(replace(artifact, **other_part(artifact, part)), identity, WIDTH) or "")
    assert f"width {WIDTH}, not 9" in (differs(artifact, identity, 9) or "")
    for part in ("config", "weights"):
        assert differs(replace(artifact, **other_part(artifact, part)), identity, WIDTH) is None


def test_what_vllm_serves_is_read_from_its_configuration(engine, tiny_llama_folder, tmp_path):
    found = Model.of(engine, STOCK)
    assert found == Model(str(tiny_llama_folder), None, None, None, WIDTH, False)
    (tmp_path / "template").write_text("{{ messages }}")
    engine.model_config.tokenizer = "another"
    found = Model.of(engine, SimpleNamespace(chat_template=str(tmp_path / "template")))
    assert (found.tokenizer, found.template) == ("another", "{{ messages }}")


def test_the_settings_say_which_detector(artifact, detector_folder, unnamed):
    assert read_artifact(Settings(detector=detector_folder)).prevalence == artifact.prevalence
    shifted = read_artifact(Settings(detector=detector_folder, prevalence=0.1))
    assert shifted.prevalence == 0.1
    assert shifted.scorer.intercept < artifact.scorer.intercept
    assert read_artifact(Settings()).id != "tiny"
    unnamed(detector_folder)
    assert read_artifact(Settings()).id == "tiny"


# -- the model's own


def test_a_detector_that_fits(engine, artifact, detector_folder, identity):
    found = fitted(engine, detector=detector_folder)
    assert isinstance(found, Own)
    assert (found.detector.id, found.detector.threshold) == ("tiny", 0.5)
    assert found.detector.engine.model_id == identity.id
    assert found.detector.tokens_read == len(artifact.probe.ids)
    assert found.block is not None
    assert len(found.block.lend(3)) == 3
    assert engine.followed == 0


def test_its_threshold_is_the_settings_(engine, detector_folder):
    for settings, wanted in (({"threshold": 0.9}, 0.9), ({"target": "recall"}, 0.25), ({"prevalence": 0.1}, 0.1)):
        found = fitted(engine, detector=detector_folder, **settings)
        assert isinstance(found, Own)
        assert found.detector.threshold == pytest.approx(wanted)
    with pytest.raises(InputError, match="another"):
        fitted(engine, detector=detector_folder, target="another")


def test_a_detector_that_is_not_named_may_fit_too(engine, detector_folder, unnamed):
    unnamed(detector_folder)
    assert isinstance(fitted(engine), Own)


# -- beside


@pytest.mark.parametrize("part", ["tokenizer", "chat_template"])
def test_another_tokenizer_or_template(engine, artifact, changed, unnamed, part):
    folder = changed(**other_part(artifact, part))
    unnamed(folder)
    found = fitted(engine)
    assert isinstance(found, Beside)
    assert "was trained with another" in found.why
    with pytest.raises(ArtifactError, match="train one, or serve tiny-llama"):
        fitted(engine, detector=folder)
    assert engine.calls == []  # nobody has asked the worker


def test_the_template_that_vllm_is_given_counts(engine, detector_folder, unnamed, tmp_path):
    unnamed(detector_folder)
    (tmp_path / "template").write_text(CHAT_TEMPLATE + " ")
    given = SimpleNamespace(chat_template=str(tmp_path / "template"))
    assert "another chat template" in fitted(engine, given).why
    (tmp_path / "same").write_text(CHAT_TEMPLATE)
    assert isinstance(fitted(engine, SimpleNamespace(chat_template=str(tmp_path / "same"))), Own)


def test_the_detector_that_ships_does_not_fit_another_model(engine):
    assert isinstance(fitted(engine), Beside)


def test_a_model_that_cannot_be_identified(engine, detector_folder):
    engine.model_config.model = engine.model_config.tokenizer = "/nowhere/at/all"
    assert "/nowhere/at/all" in fitted(engine).why
    with pytest.raises(ModelError, match="/nowhere/at/all"):
        fitted(engine, detector=detector_folder)


def test_other_weights_are_another_model(artifact, changed, other, unnamed):
    away = {"probe": Probe(artifact.probe.ids, -artifact.probe.row), **other_part(artifact, "weights")}
    folder = changed(**away)
    unnamed(folder)
    found = fitted(other(folder))
    assert isinstance(found, Beside)
    assert "cosine" in found.why
    with pytest.raises(ArtifactError, match="cosine"):
        fitted(other(folder), detector=folder)


def test_how_to_train_one():
    assert "groundwire serve --engine vllm me/mine --detector detector" in training_commands("me/mine")


# -- refused


@pytest.mark.parametrize("named", [True, False])
def test_a_server_without_our_worker(engine, detector_folder, unnamed, named):
    engine.vllm_config.parallel_config.worker_cls = "auto"
    unnamed(detector_folder)
    with pytest.raises(InputError) as raised:
        fitted(engine, **({"detector": detector_folder} if named else {}))
    assert FLAG in str(raised.value)
    assert FLAG.startswith("--worker-cls groundwire.")


def test_a_worker_with_another_detector_or_version(engine, artifact, changed, other, monkeypatch, detector_folder):
    scorer = replace(artifact.scorer, shapes=artifact.scorer.shapes.scaled(2.0))
    with pytest.raises(InputError, match="another detector"):
        fitted(other(changed(scorer=scorer)), detector=detector_folder)
    monkeypatch.setattr(module, "__version__", f"{__version__}.1")
    with pytest.raises(InputError, match="another version"):
        fitted(engine, detector=detector_folder)


def test_the_same_weights_with_other_activations(artifact, changed, other, unnamed):
    """Where it ought to fit, nothing is served."""
    folder = changed(probe=Probe(artifact.probe.ids, -artifact.probe.row))
    unnamed(folder)
    for settings in ({}, {"detector": folder}):
        with pytest.raises(CaptureError, match=r"(?s)cosine.*without quantization"):
            fitted(other(folder), **settings)


def test_a_pass_without_rows(engine, detector_folder):
    engine.worker.broken = True
    with pytest.raises(CaptureError, match="has no rows"):
        fitted(engine, detector=detector_folder)
