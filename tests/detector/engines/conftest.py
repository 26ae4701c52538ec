"""Engines over the tiny models, shared by a module's tests: a test that changes one puts it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwire.engines.transformers import TransformersEngine
from groundwire.scoring import Scorer
from tests.detector.tiny import random_scorer, tiny_engine


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_gpt2_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return tiny_engine(folder)


@pytest.fixture(scope="module")
def llama(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture(scope="module")
def scorer(engine: TransformersEngine) -> Scorer:
    return random_scorer(engine, "window")


@pytest.fixture(scope="module", params=["max", "window"])
def any_scorer(request: pytest.FixtureRequest, engine: TransformersEngine) -> Scorer:
    return random_scorer(engine, request.param)
