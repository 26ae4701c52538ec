"""Reads rows of every format, one at a time. A bad one becomes an item of its own, so that it never ends a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groundwire.batch.columns import ABOUT, Columns
from groundwire.batch.csv_rows import csv_rows
from groundwire.batch.parquet_rows import parquet_count, parquet_rows
from groundwire.batch.rows import NoPassages, parse_row, row_id
from groundwire.batch.sources import STDIN, Source, check_readable, expand, opened
from groundwire.errors import InputError
from groundwire.types import Example, Reason

__all__ = ["STDIN", "ExampleRow", "InvalidRow", "Row", "check_source", "count_rows", "read_objects", "read_rows"]
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ExampleRow:
    """A row to be scored. `id` is the caller's own, as given (a whole number stays one), or "line-N" without one.

    Where several files are read, that is "FILE:line-N".
    about: those of the fields `ABOUT` that the row has, as given; the summary of a run counts by them.
    """

    line: int
    id: str | int
    example: Example
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidRow:
    """A row that cannot be scored, and why: `reason` is "invalid_input" or "no_passages", `error` says it in full."""

    line: int
    id: str | int
    error: InputError
    about: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""  # the file's name

    @property
    def reason(self) -> Reason:
        return "no_passages" if isinstance(self.error, NoPassages) else "invalid_input"

    @property
    def detail(self) -> str:
        """What is wrong, and where."""
        return f"{self.where}, line {self.line}: {self.error.given}. Expected: {self.error.expected}"


Row = ExampleRow | InvalidRow


def read_rows(source: str | Path | Sequence[str | Path], columns: Columns | None = None) -> Iterator[Row]:
    """Rows of files and globs, or of standard input where it is "-", in order and few in memory at a time.

    JSONL lines are UTF-8 and end with a line feed; a byte order mark is tolerated; blank lines are skipped, yet counted
    in line numbers, which start at 1. In Parquet these are row numbers. Raises InputError where a file cannot be opened
    or read, or lacks a column of `columns`; MissingExtra where its format needs one that is not installed.
    """
    columns = columns or Columns()
    sources = expand(source)
    for each in sources:
        prefix = f"{each.name}:" if len(sources) > 1 else ""
        for number, content in _records(each, columns):
            yield _row(content, number, each, prefix, columns)


def read_objects(source: str | Path | Sequence[str | Path]) -> Iterator[Mapping[str, Any]]:
    """The rows of `read_rows` as they stand in the files, with all their columns; an empty one where it is unreadable.

    Raises as `read_rows` does.
    """
    for each in expand(source):
        for _, content in _records(each, None):
            try:
                values = _load(content) if isinstance(content, bytes) else content
            except InputError:
                values = None
            yield values if isinstance(values, Mapping) else {}


def check_source(source: str | Path | Sequence[str | Path]) -> None:
    """Raise InputError where `source` cannot be read, MissingExtra where that needs one. Nothing is opened."""
    for each in expand(source):
        check_readable(each)


def count_rows(source: str | Path | Sequence[str | Path]) -> int | None:
    """Number of rows, by a quick pass over plain files; None where only reading can tell (pipes, compressed, CSV).

    Raises InputError where a file cannot be read.
    """
    total = 0
    for each in expand(source):
        if each.path == STDIN or each.compression or each.format == "csv" or not Path(each.path).is_file():
            return None
        if each.format == "parquet":
            total += parquet_count(each)
        else:
            with opened(each) as stream:
                total += sum(1 for line in stream if line.strip())
    return total


def size_in_bytes(source: str | Path | Sequence[str | Path]) -> int | None:
    """Size of the files as they lie on disk; None where one is no regular file."""
    paths = [Path(each.path) for each in expand(source)]
    return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None


def _records(source: Source, columns: Columns | None) -> Iterator[tuple[int, Any]]:
    """Number and content of every row of one file; bytes where it is still to be parsed, an InputError where bad.

    columns: what will be read of a row; None for everything.
    """
    if source.format == "csv":
        yield from csv_rows(source, columns or Columns())
    elif source.format == "parquet":
        yield from parquet_rows(source, columns)
    else:
        with opened(source) as stream:
            for number, line in enumerate(stream, 1):
                content = line.removeprefix(_BOM) if number == 1 else line
                if content.strip():
                    yield number, content


def _row(content: Any, number: int, source: Source, prefix: str, columns: Columns) -> Row:
    name: str | int = f"{prefix}line-{number}"
    about: dict[str, Any] = {}
    try:
        if isinstance(content, InputError):
            raise content
        row = columns.read(_load(content) if isinstance(content, bytes) else content)
        if isinstance(row, dict):
            about = {key: row[key] for key in ABOUT if row.get(key) is not None}
            given = row_id(row)
            name = name if given is None else given
        return ExampleRow(number, name, parse_row(row, default_id=str(name)), about)
    except InputError as error:
        return InvalidRow(number, name, error, about, source.name)


def _load(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number or a nesting beyond Python's limits
        # A decode error's own text counts lines within this one line, which would read as a line of the file.
        what = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(
            f"not readable JSON: {what}",
            expected="one JSON object per line, in UTF-8",
            remedy="correct the line; a JSON array or pretty-printed JSON must first be rewritten as JSONL",
        ) from error
