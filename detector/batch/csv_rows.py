"""CSV: the first row names the columns; quoted cells may hold line breaks. One row in memory at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from groundwire.batch.columns import Columns, cells, check_columns
from groundwire.batch.sources import Source, opened
from groundwire.errors import InputError

CELL = 64 * 2**20  # characters: more than any prompt, and what a quote that is never closed can cost in memory


def csv_rows(source: Source, columns: Columns) -> Iterator[tuple[int, Any | InputError]]:
    """The line each row begins at, from 1, and its cells, or why it cannot be read. Lines of nothing are skipped.

    Raises InputError where the file cannot be read, or its header not be used.
    """
    csv.field_size_limit(CELL)  # the module's own limit, 131,072, is less than some prompts
    with opened(source) as stream:
        # Bytes that are no UTF-8 pass as lone surrogates, so that they spoil one row and not the file.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        try:
            reader = csv.reader(text, strict=True)
            header = _header(reader, source)
            check_columns(columns, set(header), source.name)
            while True:
                line = reader.line_num + 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield line, _broken(str(error))
                    continue
                if row:
                    yield line, _row(header, row)
        finally:
            text.detach()


def _header(reader: Any, source: Source) -> list[str]:
    try:
        header: list[str] = next(reader, [])
    except csv.Error as error:
        raise InputError(f"{source.name}: {error}", expected="a row of column names", remedy="correct it") from error
    if len(set(header)) != len(header):
        raise InputError(
            f"{source.name} names a column twice", expected="a name of its own for every column", remedy="rename one"
        )
    return header


def _row(header: list[str], row: list[str]) -> Any | InputError:
    if len(row) != len(header):
        return _broken(f"{len(row)} cells under {len(header)} column names")
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return _broken("the row is not UTF-8")
    return cells(dict(zip(header, row, strict=True)))


def _broken(what: str) -> InputError:
    return InputError(
        f"not readable CSV: {what}",
        expected="comma-separated cells in UTF-8, one for each column, quoted where they hold commas or line breaks",
        remedy="correct the row, or write the file with a CSV library",
    )
