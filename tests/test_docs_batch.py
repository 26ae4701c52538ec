"""docs/batch.md names what exists: options, keywords, columns; its Python blocks compile."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

from groundwire.batch.command import score
from groundwire.batch.frames import FrameScorer
from groundwire.integrations.spark import ScoreFrames

TEXT = (Path(__file__).parents[1] / "docs" / "batch.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_every_option_it_names_exists():
    known = {name for parameter in score.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert named - known == set()
    assert {"--workers", "--runner", "--ray-address", "--gpus-per-worker", "--features", "--features-of"} <= named


@pytest.mark.parametrize("block", BLOCKS)
def test_its_python_compiles(block):
    compile(block, "docs/batch.md", "exec")


def test_its_imports_are_there():
    for module, names in re.findall(r"^from (groundwire[\w.]*) import (.+)$", "\n".join(BLOCKS), re.M):
        if not module.endswith(".ray"):
            found = __import__(module, fromlist=["_"])
            assert all(hasattr(found, name.strip()) for name in names.split(","))


def test_the_settings_it_lists_are_taken():
    kept = set(inspect.signature(FrameScorer).parameters)
    assert {"keep", "prefix", "threshold", "tokens", "passage_windows", "top_terms", "columns"} <= kept
    assert {"load", "columns", "keep", "prefix", "threshold", "tokens", "threads"} <= {
        field.name for field in dataclasses.fields(ScoreFrames)
    }


@pytest.mark.parametrize("column", ["row", "id", "mean", "max", "token", "activations"])
def test_the_columns_of_activations_are_described(column):
    assert re.search(rf"^\| .*`{column}`", TEXT, re.M)
