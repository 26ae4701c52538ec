"""What `score` writes and reads, `report` and `sample` read: every format, columns of other names, several files."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from groundwire.batch.columns import Columns
from groundwire.batch.score import score_file
from groundwire.engines.fake import fake_detector
from groundwire.report.build import build_report
from groundwire.report.command import report
from groundwire.sample.build import build_sample

ROWS = [
    {
        "id": i,
        "prompt": f"Passage {i}: The bridge is long.",
        "answer": "The bridge is long." if i % 2 else "The tunnel was dug.",
        "label": 1 - i % 2,
        "label_weight": 2.5,
        "generator": f"model-{i % 3}",
    }
    for i in range(12)
]
COLUMNS = Columns(response="answer")


def written(path: Path) -> Path:
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("answers", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
@pytest.mark.parametrize("scored", ["s.jsonl", "s.jsonl.gz", "s.parquet"])
def test_a_report_reads_what_score_reads_and_writes(tmp_path: Path, answers: str, scored: str) -> None:
    source, target, page = written(tmp_path / answers), tmp_path / scored, tmp_path / "page.html"
    summary = score_file(fake_detector(), source, target, columns=COLUMNS, progress=False)
    tally = build_report(target, page, answers=source, columns=COLUMNS, by=["generator"], progress=False)
    counts = (tally.all.rows, tally.all.checked, tally.all.flagged)
    assert counts == (12, summary.checked, summary.flagged) == (12, 12, 6)
    assert (tally.all.labelled, tally.all.unfaithful) == (12, 6)
    assert summary.counts.all.labelled == 12
    assert set(tally.by["generator"]) == {"model-0", "model-1", "model-2"}
    assert "tunnel" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("scored", ["s.jsonl", "s.parquet"])
def test_a_sample_of_any_format_is_labelled_and_reported(tmp_path: Path, scored: str) -> None:
    source, target, drawn = written(tmp_path / "a.parquet"), tmp_path / scored, tmp_path / "drawn.jsonl"
    score_file(fake_detector(), source, target, columns=COLUMNS, progress=False)
    build_sample(target, drawn, number=6, answers=source, columns=COLUMNS)
    rows = [json.loads(line) for line in drawn.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 6
    assert all(row["answer"] == ROWS[int(row["id"])]["answer"] for row in rows)
    tally = build_report(target, tmp_path / "p.html", answers=source, labels=drawn, columns=COLUMNS, progress=False)
    assert tally.all.labelled == 6


def test_several_files_are_reported_as_they_were_scored(tmp_path: Path) -> None:
    for name in ("a1.jsonl", "a2.jsonl"):
        lines = [json.dumps({key: row[key] for key in ("prompt", "answer")}) for row in ROWS]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    pattern, target = str(tmp_path / "a*.jsonl"), tmp_path / "s.jsonl"
    score_file(fake_detector(), pattern, target, columns=COLUMNS, progress=False)
    given = ["--answers", pattern, "--response-column", "answer", "-o", str(tmp_path / "page.html")]
    done = CliRunner().invoke(report, [str(target), *given], catch_exceptions=False)
    assert done.exit_code == 0
    assert "24 rows, 24 checked, 12 flagged" in done.output
