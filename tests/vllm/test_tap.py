"""Models that give no hidden states beside their output have an operator in the layer: a tiny random Gemma-2."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from groundwire.detector import Detector
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.engines.vllm.engine import VllmEngine
from groundwire.types import Example
from tests.detector.tiny import random_artifact
from tests.vllm.conftest import CPU, TINY_CONTEXT

ANSWERS = (
    "It was built in 1889.",
    "41 metres high, the keeper's log says.",
    "Its builder came from Lisbon.",
)


@pytest.fixture(scope="module")
def reference(gemma: Path) -> TransformersEngine:
    return TransformersEngine(load_reader(gemma), "model.layers.2")


@pytest.fixture(scope="module")
def artifact(reference: TransformersEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector") / "tiny"
    random_artifact(reference, "window").save_pretrained(folder)
    return folder


def options() -> dict[str, Any]:
    return {"dtype": "float32", "max_model_len": TINY_CONTEXT, "max_num_seqs": 8, "kv_cache_memory_bytes": 64 << 20}


@pytest.fixture(scope="module")
def engine(gemma: Path, artifact: Path) -> Iterator[VllmEngine]:
    found = VllmEngine.open(artifact, model=gemma, **options(), enforce_eager=CPU)
    yield found
    found.llm.llm_engine.engine_core.shutdown()


def rows() -> list[Example]:
    question = [{"role": "user", "content": "Passage 1: The lighthouse was finished in 1889.\n\nQuestion: When?"}]
    return [Example(str(i), question, text) for i, text in enumerate(ANSWERS)]


def test_the_operator_is_what_captures(engine):
    (about,) = [one for one in engine.llm.collective_rpc("groundwire_begin") if one]
    assert (about["tap"], about["follows"]) == ("op", True)


def test_rows_are_those_of_the_transformers_engine(engine, reference):
    ids = reference.tokenizer("The lighthouse was finished in 1889 by a builder from Lisbon. " * 4)["input_ids"]
    found, expected = engine.read(ids), reference.read(ids)
    assert float(torch.cosine_similarity(found, expected, dim=1).min()) >= 0.99999


def test_scores_are_those_of_the_transformers_engine(engine, reference, artifact):
    mine = Detector.from_pretrained(artifact, engine=engine).score_batch(rows())
    theirs = Detector.from_pretrained(artifact, engine=reference).score_batch(rows())
    for one, expected in zip(mine, theirs, strict=True):
        assert one.checked
        assert one.score == pytest.approx(expected.score, abs=1e-3)


@pytest.mark.slow
def test_compiled_too(gemma, artifact, reference, tmp_path):
    """The same with torch.compile, in a process of its own: compiling takes a minute or two."""
    code = (
        "from groundwire.detector import Detector\n"
        "from groundwire.engines.vllm.engine import VllmEngine\n"
        "from tests.vllm.test_tap import options, rows\n"
        "if __name__ == '__main__':\n"
        f"    engine = VllmEngine.open({str(artifact)!r}, model={str(gemma)!r}, **options())\n"
        f"    found = Detector.from_pretrained({str(artifact)!r}, engine=engine).score_batch(rows())\n"
        "    print('SCORES', [one.score for one in found])\n"
    )
    script = tmp_path / "compiled.py"
    script.write_text(code, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "VLLM_CACHE_ROOT": str(tmp_path / "cache")},
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("SCORES")]
    assert lines, run.stderr[-3000:]
    found = [float(number) for number in lines[0].removeprefix("SCORES [").rstrip("]").split(",")]
    expected = [d.score for d in Detector.from_pretrained(artifact, engine=reference).score_batch(rows())]
    assert found == pytest.approx(expected, abs=1e-3)
