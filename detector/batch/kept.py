"""Output rows that are there already: of an interrupted run, up to the first that is torn, or of a finished one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from groundwire.batch.appended import Appended
from groundwire.batch.sources import opened, parquet_library, source_of, unreadable

BATCH = 256  # Parquet rows decoded at a time

OutputRow = dict[str, Any]


def whole_row(line: bytes) -> OutputRow | None:
    """The output row of a line; None where the line is torn, or ends in what a power cut left."""
    if not line.endswith(b"}\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("hallucination"), dict) and "id" in row else None


def whole_rows(file: Appended) -> Iterator[tuple[int, OutputRow]]:
    """Where each row ends, and the row, up to the first that is torn."""
    end = 0
    for line in file.lines():
        row = whole_row(line)
        if row is None:
            return
        end += len(line)
        yield end, row


def count_lines(file: Appended) -> int:
    """Lines of the file, a torn last one aside, by a quick pass."""
    with open(file.path, "rb") as stream:
        return sum(piece.count(b"\n") for piece in iter(lambda: stream.read(2**20), b""))


def finished_rows(target: Path) -> Iterator[OutputRow]:
    """Rows of a finished output of any format, up to one that is no output row.

    Raises InputError where the file cannot be read.
    """
    source = source_of(target)
    if source.format != "parquet":
        with opened(source) as stream:
            for line in stream:
                row = whole_row(line)
                if row is None:
                    return
                yield row
        return
    library = parquet_library()
    import pyarrow

    try:
        with library.ParquetFile(source.path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(source, error) from error
