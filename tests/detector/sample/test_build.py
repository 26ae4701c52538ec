from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundwire.batch.score import score_file
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.sample.build import build_sample

PASSAGE = "The bridge opened in 1931. It is 642 metres long."


def files(folder: Path, rows: list[dict]) -> tuple[Path, Path]:
    answers, scored = folder / "answers.jsonl", folder / "scored.jsonl"
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(fake_detector(), answers, scored, progress=False)
    return scored, answers


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def scored(tmp_path):
    rows = [{"prompt": PASSAGE, "response": "Opened in 1931." + " By Kim." * (i % 5), "mine": i} for i in range(60)]
    return files(tmp_path, [*rows, {"prompt": PASSAGE, "response": " ", "mine": 60}])


def test_rows_are_written_whole_with_their_chance_and_a_label_to_fill_in(scored, tmp_path):
    found = build_sample(scored[0], tmp_path / "out.jsonl", number=20, answers=scored[1])
    rows = rows_of(tmp_path / "out.jsonl")
    assert len(rows) == len(found.rows) == 20
    for row in rows:
        assert row["label"] is None
        assert row["id"] == f"line-{row['mine'] + 1}"  # the id the scores have
        assert row["prompt"] == PASSAGE
        assert row["mine"] < 60  # what was not checked has no score to correct
        assert row["label_weight"] == pytest.approx(1 / row["label_probability"])
    assert sum(row["label_weight"] for row in rows) == pytest.approx(60)


def test_without_answers_ids_and_scores_are_written(scored, tmp_path):
    build_sample(scored[0], tmp_path / "out.jsonl", number=20)
    assert set(rows_of(tmp_path / "out.jsonl")[0]) == {
        "id", "score", "flagged", "label", "label_probability", "label_weight"
    }  # fmt: skip


def test_labels_there_are_kept(tmp_path):
    rows = [{"id": i, "prompt": PASSAGE, "response": "Opened.", "label": i % 2} for i in range(20)]
    build_sample(*files(tmp_path, rows)[:1], tmp_path / "out.jsonl", number=20, answers=tmp_path / "answers.jsonl")
    assert [row["label"] for row in rows_of(tmp_path / "out.jsonl")] == [i % 2 for i in range(20)]


def test_nothing_is_overwritten_and_files_must_belong_together(scored, tmp_path):
    for target in (scored[0], scored[1]):
        with pytest.raises(InputError):
            build_sample(scored[0], target, number=20, answers=scored[1])
    (tmp_path / "other.jsonl").write_text('{"id": "x", "prompt": "p", "response": "r"}\n')
    with pytest.raises(InputError, match="has id"):
        build_sample(scored[0], tmp_path / "out.jsonl", number=20, answers=tmp_path / "other.jsonl")
