"""Writes rows so that they survive whatever ends the run, and a file that looks complete is complete.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from groundwire.batch.appended import Appended
from groundwire.batch.packing import check_packable, pack, packed
from groundwire.batch.paths import ahead_path, packing_path, partial_path, run_path, sync_folder
from groundwire.batch.sources import STDIN, source_of
from groundwire.errors import GroundwireError, InputError


def check_target(
    target: str | Path,
    *,
    source: str | Path | Sequence[str | Path],
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Raise InputError where writing `target` would lose something: the input, an existing file, an earlier run.

    resume: what a run left that can be continued, which OUT.run tells, may be there.
    Raises MissingExtra where the target's format needs one that is not installed. "-" is standard output.
    """
    if str(target) == STDIN:
        return
    check_packable(source_of(target))
    target = Path(target)
    for each in [source] if isinstance(source, str | Path) else source:
        if any(
            path.exists() and Path(each).exists() and path.samefile(each)
            for path in (target, *(beside(target) for beside in (partial_path, ahead_path, run_path)))
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
    if overwrite or (resume and run_path(target).exists()):
        return
    for path in (target, partial_path(target)):
        if os.path.lexists(path):
            raise exists(path)


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
            self._file = Appended(self.partial, fresh=self.overwrite, new=not self.overwrite)
        except FileExistsError as error:
            raise exists(self.partial) from error
        except OSError as error:
            raise self._failed(error) from error
        return self

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Where it does not fit, what was written of it is cut off again, as far as the disk allows."""
        try:
            self._file.append(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise self._failed(error) from error
        self.rows += 1

    def sync(self) -> None:
        """Force the rows so far to disk, where they outlive a power cut."""
        try:
            self._file.sync()
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """All rows are written: give the file its final name."""
        self.sync()
        try:
            self._file.close()
            put_in_place(self.partial, self.target)
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
        self._failure = write_failed(self.partial, error, self._whereabouts())
        return self._failure

    def _whereabouts(self) -> str:
        return f"{self.rows} finished rows are kept in {str(self.partial)!r}" if self.rows else "no row was written"


def put_in_place(partial: Path, target: Path) -> None:
    """Give finished rows their final name, in the format that the name says, on disk when this returns.

    Can be done again where it was interrupted. Raises OSError.
    """
    source = source_of(target)
    if packed(source):
        packing = packing_path(target)
        pack(partial, packing, source)
        os.replace(packing, target)
        sync_folder(target.parent)
        partial.unlink()
    else:
        os.replace(partial, target)
    sync_folder(target.parent)


def write_failed(path: Path, error: OSError, whereabouts: str) -> GroundwireError:
    """The error to raise where the disk is full or fails."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return GroundwireError(
        f"cannot write {str(path)!r}: {error.strerror or error}; {whereabouts}",
        expected="a writable folder with room for the output",
        remedy="free disk space, or write to another disk" if full else "check the path and its permissions",
    )


def exists(path: Path) -> InputError:
    """The error to raise where a file would be lost."""
    left = " (rows of a run that did not finish)" if path.suffix == ".partial" else ""
    return InputError(
        f"{str(path)!r} exists{left}",
        expected="a path that is free",
        remedy="move it, choose another output path, or overwrite it (--overwrite, overwrite=True)",
    )
