"""What the tests of training share: articles, and the tiny random Llama as a reader."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from groundwire.engines.reader import Reader, load_reader
from groundwire.training import fit

TEXT = "the lighthouse bridge was built in 1889 by a keeper from Lisbon and it is 41 metres high passages say"


@pytest.fixture(scope="session")
def tiny(tiny_llama_folder: Path) -> Reader:
    return load_reader(tiny_llama_folder)


@pytest.fixture(scope="session")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSONL of 120 articles of two to five paragraphs; every text is another."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "articles.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(120):
            paragraphs = [" ".join(rng.choices(TEXT.split(), k=40)) + "." for _ in range(rng.randint(2, 5))]
            file.write(json.dumps({"title": f"Article {number}", "text": "\n\n".join(paragraphs)}) + "\n")
    return path


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that fits in a moment; for tests of what stands around the fit."""
    monkeypatch.setitem(fit.RECIPE, "max_rounds", 10)
    monkeypatch.setitem(fit.RECIPE, "outer_bags", 2)
