"""Reads JSONL rows one at a time. A bad line becomes an item of its own, so that one of them never ends a run."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from groundwire.batch.rows import NoPassages, parse_row, row_id
from groundwire.errors import InputError
from groundwire.types import Example, Reason

STDIN = "-"
ABOUT = ("generator", "group", "label", "label_weight")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ExampleRow:
    """A row to be scored. `id` is the caller's own, as given (a whole number stays one), or "line-N" without one.

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

    @property
    def reason(self) -> Reason:
        return "no_passages" if isinstance(self.error, NoPassages) else "invalid_input"


Row = ExampleRow | InvalidRow


def read_rows(source: str | Path) -> Iterator[Row]:
    """Rows of a JSONL file, or of standard input where `source` is "-", in order and one line in memory at a time.

    Lines are UTF-8 and end with a line feed; a byte order mark is tolerated; blank lines are skipped, yet counted in
    line numbers, which start at 1. Raises InputError where the file cannot be opened or read.
    """
    try:
        with _open(source) as stream:
            yield from _parse_lines(stream)
    except OSError as error:
        raise _unreadable(source, error) from error


def check_source(source: str | Path) -> None:
    """Raise InputError where `source` cannot be read. Nothing is opened: a pipe would lose its writer."""
    if str(source) == STDIN:
        return
    if Path(source).is_dir():
        raise _unreadable(source, IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)))
    if not os.access(source, os.R_OK):
        code = errno.EACCES if Path(source).exists() else errno.ENOENT
        raise _unreadable(source, OSError(code, os.strerror(code)))


def count_rows(source: str | Path) -> int | None:
    """Number of rows, by a quick pass over the file; None where only reading it once can tell (standard input, pipes).

    Raises InputError where the file cannot be read.
    """
    if str(source) == STDIN or not Path(source).is_file():
        return None
    try:
        with _open(source) as stream:
            return sum(1 for line in stream if line.strip())
    except OSError as error:
        raise _unreadable(source, error) from error


def _open(source: str | Path) -> AbstractContextManager[BinaryIO]:
    # Bytes, not text: Python's universal newlines would also break lines at a bare carriage return.
    return nullcontext(sys.stdin.buffer) if str(source) == STDIN else open(source, "rb")


def _parse_lines(lines: Iterable[bytes]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if content.strip():
            yield _parse_line(content, number)


def _parse_line(line: bytes, number: int) -> Row:
    name: str | int = f"line-{number}"
    about: dict[str, Any] = {}
    try:
        row = _load(line)
        if isinstance(row, dict):
            about = {key: row[key] for key in ABOUT if row.get(key) is not None}
            given = row_id(row)
            name = name if given is None else given
        return ExampleRow(number, name, parse_row(row, default_id=str(name)), about)
    except InputError as error:
        return InvalidRow(number, name, error, about)


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


def _unreadable(source: str | Path, error: OSError) -> InputError:
    return InputError(
        f"cannot read {str(source)!r}: {error.strerror or error}",
        expected='a JSONL file, or "-" for standard input',
        remedy="check the path and its permissions",
    )
