"""What these tests share: files that the public fake detector scored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from groundwire.batch.score import score_file
from groundwire.engines.fake import fake_detector

PASSAGE = "The bridge opened in 1931. It is 642 metres long & crosses the Arrow."
TRUE, FALSE = "The bridge opened in 1931.", "The bridge opened in 1931, by Edmund Blackwood."


def write(path: Path, rows: Sequence[object]) -> Path:
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def example(name: str | int, response: str = TRUE, **fields: object) -> dict[str, object]:
    return {"id": name, "context": [PASSAGE], "question": "When did it open?", "response": response, **fields}


@pytest.fixture
def score(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Score rows with the fake detector: the paths of the scores and of the answers."""

    def score(*rows: Mapping[str, Any] | str) -> tuple[Path, Path]:
        answers = write(tmp_path / "answers.jsonl", rows)
        scored = tmp_path / "scored.jsonl"
        score_file(fake_detector(), answers, scored, overwrite=True, progress=False)
        return scored, answers

    return score


@pytest.fixture
def mixed(score: Callable[..., tuple[Path, Path]]) -> tuple[Path, Path]:
    """Ten faithful and ten unfaithful answers with labels, groups of two and two generators; one not checked."""
    rows = [
        example(
            i, FALSE if i % 2 else TRUE, label=i % 2, group=f"g{i // 4}", generator="ab"[i // 10], dataset="bridges"
        )
        for i in range(20)
    ]
    return score(*rows, example("empty", " ", label=0, generator="a", dataset="bridges"))


VERDICT = {
    "status": "checked",
    "reason": None,
    "score": 0.75,
    "flagged": True,
    "threshold": 0.5,
    "action": "annotate",
    "logit": 1.1,
    "intercept": -1.0,
    "other": 0.1,
    "detector": {
        "id": "d",
        "version": "1",
        "model": "m",
        "hookpoint": "model.layers.0",
        "same_model": True,
        "reading": "own",
    },
    "spans": [{"start": 4, "end": 10, "text": "bridge", "score": 0.9, "evidence": None}],
    "sentences": [],
    "terms": [
        {"kind": "latent", "name": "bridges", "feature_id": 3, "contribution": 2.5, "token": " bridge", "start": 3},
        {"kind": "grounding", "name": "absent", "feature_id": None, "contribution": -0.5, "token": None, "start": None},
    ],
    "tokens": None,
}


@pytest.fixture
def verdict() -> Callable[..., dict[str, Any]]:
    """A row as `groundwire score` writes it, with fields of its `hallucination` replaced."""

    def verdict(name: str | int = 1, **fields: object) -> dict[str, Any]:
        return {"id": name, "hallucination": json.loads(json.dumps(VERDICT)) | fields}

    return verdict
