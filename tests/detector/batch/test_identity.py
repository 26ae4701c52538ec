from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from groundwire.batch.columns import Columns
from groundwire.batch.identity import detector_identity, differences, digest, identity
from groundwire.batch.unit import Options
from groundwire.engines.fake import fake_detector
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine

OPTIONS = Options(0.5)


def test_a_detector_is_known_by_what_it_computes():
    found = identity(fake_detector(), OPTIONS, Columns(), ["in.jsonl"])
    assert found == identity(fake_detector(), OPTIONS, Columns(), ["in.jsonl"])
    assert found["detector"]["id"] == "fake"
    assert found["detector"]["model"] == "fake"
    assert len(found["detector"]["sha256"]) == 64


def test_a_detector_need_not_have_anything():
    class Plain:
        pass

    found = identity(Plain(), OPTIONS, Columns(), [])
    assert found["detector"] == {
        "id": "Plain",
        "version": None,
        "sha256": None,
        "model": None,
        "fingerprint": {},
        "dtype": None,
    }


def test_every_number_of_an_artifact_counts_and_its_card_does_not():
    artifact = fake_detector().artifact
    scorer = artifact.scorer
    weight = scorer.encoder.weight.clone()
    weight[0, 0] += 1e-6
    others = [
        replace(artifact, version="2"),
        replace(artifact, scorer=replace(scorer, intercept=scorer.intercept + 1e-9)),
        replace(artifact, scorer=replace(scorer, encoder=replace(scorer.encoder, weight=weight))),
        replace(artifact, thresholds={"balanced_accuracy": 0.51}),
    ]
    assert len({digest(each) for each in [artifact, *others]}) == 5
    assert digest(replace(artifact, card="other", about={"a": 1}, latents={"b": 2})) == digest(artifact)


def test_bfloat16_tensors_have_a_digest_too():
    artifact = fake_detector().artifact
    encoder = replace(artifact.scorer.encoder, weight=artifact.scorer.encoder.weight.to(torch.bfloat16))
    assert digest(encoder) != digest(artifact.scorer.encoder)


def test_what_differs_is_named_and_where_the_rows_come_from_does_not_count():
    one = identity(fake_detector(), OPTIONS, Columns(), ["a.jsonl"])
    assert differences(identity(fake_detector(), OPTIONS, Columns(), ["b.jsonl"]), one | {"replaces": True}) == []
    other = identity(fake_detector(), replace(OPTIONS, threshold=0.4), Columns(id="key"), ["a.jsonl"])
    assert differences(other, one) == [
        "options threshold is 0.4 and was 0.5",
        "columns id is key and was none",
    ]


def test_the_numbers_a_model_computes_in_count(tiny_llama_folder: Path) -> None:
    """An 8-bit model's tensors outside of its linear layers are those of the float32 one."""
    detectors = []
    for dtype in ("float32", "int8", "bfloat16"):
        detector = fake_detector()
        detector.engine = TransformersEngine(load_reader(tiny_llama_folder, dtype=dtype), "model.layers.1")
        detectors.append(detector_identity(detector))
    assert [found["dtype"] for found in detectors] == ["float32", "int8", "bfloat16"]
    assert differences(*[{"detector": found} for found in detectors[:2]]) == ["detector dtype is float32 and was int8"]
