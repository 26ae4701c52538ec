"""What these tests share: the detectors and the runner of `slow.py`, which is a script too."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def slow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slow_run", Path(__file__).with_name("slow.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
