"""What Spark does with the function: it pickles it, and calls it with an iterator of pandas frames."""

from __future__ import annotations

import copy

import pytest

from groundwire.batch.recipe import Recipe
from groundwire.engines.fake import fake_detector

pytest.importorskip("pandas", reason="pandas is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

import pandas

from groundwire.integrations.spark import ScoreFrames, verdict_schema

PROMPT = "The lighthouse was built in 1889 by a builder from Lisbon."
FRAME = pandas.DataFrame({"id": [1, 2], "prompt": [PROMPT] * 2, "response": ["built in 1889", "built in 1931"]})


def test_frames_in_frames_out() -> None:
    function = copy.deepcopy(ScoreFrames(fake_detector, threads=None, keep=["id"]))
    first, second = function(iter([FRAME, FRAME[1:]]))
    assert list(first["flagged"]) == [False, True]
    assert list(second["id"]) == [2]


def test_the_schema_names_the_columns_in_order() -> None:
    (scored,) = ScoreFrames(fake_detector, threads=None, keep=[], tokens=True, prefix="h_")([FRAME])
    schema = verdict_schema(tokens=True, prefix="h_")
    assert [part.split(" ")[0] for part in schema.split(", ") if part.startswith("h_")] == list(scored.columns)
    assert "h_flagged boolean" in schema
    assert "h_tokens array<struct<`token`: string, `start`: bigint, `end`: bigint, `score`: double>>" in schema


def test_a_recipe_is_loaded_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(Recipe, "load", lambda self: loaded.append(self) or fake_detector())
    recipe = Recipe(artifact="of this test")
    for _ in range(3):
        list(ScoreFrames(recipe, threads=None)([FRAME]))
    assert loaded == [recipe]
