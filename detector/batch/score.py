"""Scores files of rows, chunk by chunk: memory does not grow with them, finished rows are on disk.

    read_rows -> chunked -> detector.score_batch -> decide -> {"id": ..., "hallucination": {...}} -> PartialWriter

Output rows stand in the input's order, one for every input row. A row that cannot be scored is written as not_checked
with its reason, and the run goes on.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from groundwire.batch.chunks import chunked
from groundwire.batch.columns import Columns
from groundwire.batch.origins import Origins
from groundwire.batch.reader import ExampleRow, InvalidRow, Row, check_source, count_rows, read_rows
from groundwire.batch.sources import expand
from groundwire.batch.writer import check_target, writer_to
from groundwire.errors import InputError
from groundwire.guard import decide
from groundwire.types import Detection, Example, Verdict


@runtime_checkable
class BatchDetector(Protocol):
    """What batch scoring needs of a detector."""

    threshold: float

    def score_batch(self, examples: Sequence[Example]) -> list[Detection]: ...


@dataclass
class Summary:
    """What a run did. `not_checked` counts by reason; `rows` is `checked` and all of these; `seconds` is wall time.

    counts: the same by generator, with what else the rows say of themselves.
    """

    rows: int = 0
    checked: int = 0
    flagged: int = 0
    not_checked: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    counts: Origins = field(default_factory=Origins)

    @property
    def invalid(self) -> int:
        """Rows that could not be read."""
        return self.not_checked["invalid_input"]

    def add(self, verdict: Verdict, row: Row) -> None:
        self.counts.add(verdict.detection, bool(verdict.flagged), row)
        self.rows += 1
        if verdict.detection.checked:
            self.checked += 1
            self.flagged += bool(verdict.flagged)
        else:
            self.not_checked[str(verdict.detection.reason)] += 1


def score_file(
    detector: BatchDetector,
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    columns: Columns | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    tokens: bool = False,
    top_terms: int = 5,
    progress: bool = True,
) -> Summary:
    """Score every row of `source`, files or globs ("-" is standard input), into `target` ("-" is standard output).

    Suffixes name the formats: .jsonl, .csv, each also .gz or .zst, and .parquet; the target is JSONL or Parquet.
    columns: the caller's names for the fields of a row.
    threshold: rows with a score above it are flagged; None takes the detector's own.
    overwrite: replace an existing `target`, or what an interrupted run left of it.
    tokens: write the score of every token as well. top_terms: how many contributions to list per row.
    progress: show a progress bar on standard error, where that is a terminal.
    Raises InputError where the files or threshold cannot be used, GroundwireError where writing fails; finished rows
    are then in `target` + ".partial".
    """
    threshold = _threshold(detector.threshold if threshold is None else threshold)
    source = [each.path for each in expand(source)]
    check_source(source)
    check_target(target, source=source, overwrite=overwrite)
    summary, start = Summary(), time.perf_counter()
    total = count_rows(source)
    bar = tqdm(total=total, unit="row", desc="scoring", disable=None if progress else True)
    with bar, writer_to(target, overwrite=overwrite) as writer:
        for chunk in chunked(read_rows(source, columns)):
            for row, detection in zip(chunk, _detect(detector, chunk), strict=True):
                verdict = decide(detection, threshold, action="annotate")
                writer.write({"id": row.id, "hallucination": verdict.to_dict(top_terms=top_terms, tokens=tokens)})
                summary.add(verdict, row)
            writer.sync()
            bar.update(len(chunk))
        writer.finish()
    summary.seconds = time.perf_counter() - start
    return summary


def _detect(detector: BatchDetector, chunk: Sequence[Row]) -> list[Detection]:
    """One detection per row of the chunk; only the valid rows reach the detector."""
    valid = [row for row in chunk if isinstance(row, ExampleRow)]
    detections = detector.score_batch([row.example for row in valid]) if valid else []
    # By place, not by line number: a chunk can hold rows of two files.
    scored = iter([detection for _, detection in zip(valid, detections, strict=True)])
    return [_unscored(row) if isinstance(row, InvalidRow) else next(scored) for row in chunk]


def _unscored(row: InvalidRow) -> Detection:
    detail = f"{row.where}, line {row.line}: {row.error.given}. Expected: {row.error.expected}"
    return Detection(status="not_checked", reason=row.reason, detail=detail)


def _threshold(value: float) -> float:
    if math.isfinite(value) and 0 <= value <= 1:
        return value
    raise InputError(
        f"threshold {value}", expected="a number from 0 to 1", remedy="give the score above which a row is flagged"
    )
