"""The engine protocol is what the engines have in common, no more."""

from __future__ import annotations

from pathlib import Path

from groundwire.engines.base import Engine
from groundwire.engines.fake import FakeEngine
from tests.detector.tiny import tiny_engine


def test_the_engines_are_engines(tiny_llama_folder: Path) -> None:
    assert isinstance(tiny_engine(tiny_llama_folder), Engine)
    assert isinstance(FakeEngine(), Engine)
    assert not isinstance(object(), Engine)
