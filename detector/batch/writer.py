"""Writes finished rows so that they survive whatever ends the run, and a file that looks complete is complete.

Rows go to `OUT.partial`, straight to the operating system, and are forced to disk with `sync`. Only `finish` renames
the file to `OUT`. A killed run therefore leaves `OUT.partial` with every finished row, and never an `OUT`. Only a line
without its line feed at the very end can be torn.

`OUT.partial` is plain JSONL whatever the format of OUT: Parquet and compressed streams cannot be cut off at a row, so
`finish` packs it into `OUT.packing` and renames that. Where packing fails, the rows are still in `OUT.partial`.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from groundwire.batch.packing import check_packable, pack, packed
from groundwire.batch.sources import STDIN, source_of
from groundwire.errors import GroundwireError, InputError


def partial_path(target: Path) -> Path:
    """Where the rows of `target` lie until all of them are written."""
    return target.with_name(target.name + ".partial")


def check_target(target: str | Path, *, source: str | Path | Sequence[str | Path], overwrite: bool = False) -> None:
    """Raise InputError where writing `target` would lose something: the input, an existing file, an earlier run.

    Raises MissingExtra where the target's format needs one that is not installed. "-" is standard output.
    """
    if str(target) == STDIN:
        return
    check_packable(source_of(target))
    target = Path(target)
    for each in [source] if isinstance(source, str | Path) else source:
        if any(
            path.exists() and Path(each).exists() and path.samefile(each) for path in (target, partial_path(target))
        ):
            raise InputError(
                f"writing {str(target)!r} would overwrite its own input {str(each)!r}",
                expected="an output file of its own",
                remedy="choose another output path",
            )
    if target.exists() and not target.is_file():
        raise InputError(
            f"{str(target)!r} is not a regular file", expected="the path of a file", remedy="choose another output path"
        )
    if not target.parent.is_dir():
        raise InputError(
            f"there is no folder {str(target.parent)!r}", expected="a folder to write into", remedy="create it first"
        )
    for path in (target, partial_path(target)):
        if not overwrite and os.path.lexists(path):
            raise _exists(path)


class PartialWriter:
    """Context manager that appends JSON rows to `OUT.partial` and renames it on `finish`. `rows` counts them.

    Raises InputError where `OUT.partial` exists and `overwrite` is false, GroundwireError where the disk is full or
    fails, saying how many rows are safe and where. Any other error that leaves the context carries that as a note.
    """

    def __init__(self, target: str | Path, *, overwrite: bool = False) -> None:
        self.target, self.overwrite = Path(target), overwrite
        self.partial = partial_path(self.target)
        self.rows = 0
        self._failure: GroundwireError | None = None

    def __enter__(self) -> PartialWriter:
        try:
            # Unbuffered: a row is with the operating system, and survives kill -9, when `write` returns.
            self._file = open(self.partial, "wb" if self.overwrite else "xb", buffering=0)
        except FileExistsError as error:
            raise _exists(self.partial) from error
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Where it does not fit, what was written of it is cut off again, as far as the disk allows."""
        line = memoryview(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        done = self._file.tell()
        try:
            while line:
                line = line[self._file.write(line) or 0 :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(done)
            raise self._failed(error) from error
        self.rows += 1

    def sync(self) -> None:
        """Force the rows so far to disk, where they outlive a power cut."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """All rows are written: give the file its final name."""
        self.sync()
        try:
            self._file.close()
            source = source_of(self.target)
            if packed(source):
                packing = self.target.with_name(self.target.name + ".packing")
                pack(self.partial, packing, source)
                os.replace(packing, self.target)
                self.partial.unlink()
            else:
                os.replace(self.partial, self.target)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._file.close()
            if error is not None and not self.rows:
                self.partial.unlink()  # nothing to keep, and the next run should not stumble over it
        if error is not None and error is not self._failure:
            error.add_note(f"{self._whereabouts()}.")

    def _failed(self, error: OSError) -> GroundwireError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        self._failure = GroundwireError(
            f"cannot write {str(self.partial)!r}: {error.strerror or error}; {self._whereabouts()}",
            expected="a writable folder with room for the output",
            remedy="free disk space, or write to another disk" if full else "check the path and its permissions",
        )
        return self._failure

    def _whereabouts(self) -> str:
        return f"{self.rows} finished rows are kept in {str(self.partial)!r}" if self.rows else "no row was written"


class StreamWriter:
    """Context manager that writes JSON rows to standard output as they are finished; `rows` counts them."""

    def __init__(self) -> None:
        self.rows = 0

    def __enter__(self) -> StreamWriter:
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row."""
        sys.stdout.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self.rows += 1

    def sync(self) -> None:
        """Hand the rows so far to the reader. Raises GroundwireError where there is none any more."""
        try:
            sys.stdout.flush()
        except OSError as error:
            raise GroundwireError(
                f"cannot write to standard output: {error.strerror or error}",
                expected="a reader of it, or a file",
                remedy="write to a file instead",
            ) from error

    def finish(self) -> None:
        """All rows are written."""
        self.sync()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


def writer_to(target: str | Path, *, overwrite: bool = False) -> PartialWriter | StreamWriter:
    """The writer for a target: a file, or standard output where it is "-"."""
    return StreamWriter() if str(target) == STDIN else PartialWriter(target, overwrite=overwrite)


def _exists(path: Path) -> InputError:
    left = " (rows of a run that did not finish)" if path.suffix == ".partial" else ""
    return InputError(
        f"{str(path)!r} exists{left}",
        expected="a path that is free",
        remedy="move it, choose another output path, or overwrite it (--overwrite, overwrite=True)",
    )
