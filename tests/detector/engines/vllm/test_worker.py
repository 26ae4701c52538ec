"""The worker's own parts; with a real vLLM it runs in tests/vllm."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

from groundwire.artifact import Artifact
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.engines.vllm import worker
from groundwire.engines.vllm.slots import Part
from groundwire.errors import InputError


def test_parts_come_in_the_order_of_the_rows():
    scheduled = SimpleNamespace(
        scheduled_new_reqs=[SimpleNamespace(req_id="new", num_computed_tokens=16)],
        scheduled_cached_reqs=SimpleNamespace(req_ids=["a", "b"], num_computed_tokens=[7, 9]),
        num_scheduled_tokens={"new": 5, "a": 1, "b": 2},
    )
    assert worker.parts_of(scheduled, ["b", "new", "a", "left"]) == [
        Part("b", 9, 2),
        Part("new", 16, 5),
        Part("a", 7, 1),
    ]


def test_the_detector_is_the_one_that_ships_unless_one_is_named(monkeypatch):
    monkeypatch.delenv(worker.VARIABLE, raising=False)
    assert worker.detector_folder({}) == str(DEFAULT_ARTIFACT)
    monkeypatch.setenv(worker.VARIABLE, "/from/environment")
    assert worker.detector_folder(None) == "/from/environment"
    assert worker.detector_folder({"groundwire": {"detector": "/from/config"}}) == "/from/config"
    with pytest.raises(InputError, match=r'{"detector": "FOLDER"}'):
        worker.detector_folder({"groundwire": 3})


def test_detectors_are_told_apart_but_not_by_their_share_of_unfaithful_answers():
    artifact = Artifact.from_pretrained(DEFAULT_ARTIFACT)
    assert worker.digest(artifact) == worker.digest(artifact.at_prevalence(0.01))
    other = replace(artifact.scorer, shapes=artifact.scorer.shapes.scaled(2.0))
    assert worker.digest(artifact) != worker.digest(replace(artifact, scorer=other))


def test_the_worker_needs_vllm_and_nothing_else_is_there():
    with pytest.raises(AttributeError, match="no attribute 'Wrker'"):
        _ = worker.Wrker
    if find_spec("vllm") is None:
        with pytest.raises(ModuleNotFoundError, match="vllm"):
            _ = worker.Worker
