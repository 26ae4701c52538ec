"""OUT.run: which run OUT is of, and which windows of the input it has begun. JSONL; a line is on disk before its rows.

    {"format": 1, "detector": {...}, "options": {...}, "columns": {...}, "plan": {...}, "input": [...]}
    {"window": 0, "first": 0, "rows": 8192, "sha256": "..."}
    {"finished": true, "rows": 8192}

No times stand in it: equal runs leave equal files. While a run writes, it holds a lock on the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from groundwire.batch.appended import Appended
from groundwire.batch.identity import differences
from groundwire.batch.windows import Window
from groundwire.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


class Manifest:
    """The open and locked file. header: of the run that wrote it, None where there was none. finished: rows, or None.

    Raises InputError where another process holds the lock, OSError where the file cannot be opened.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self.path, self.target = path, target
        self._file = _locked(path, target)
        self.header: dict[str, Any] | None = None
        self.windows: list[dict[str, Any]] = []
        self.finished: int | None = None
        self.torn = False  # whether it holds something, and its first line cannot be read
        self._read()

    @property
    def empty(self) -> bool:
        """Whether the file says nothing at all."""
        return self._file.size == 0

    def begin(self, header: Mapping[str, Any]) -> None:
        """A new run: forget the one before."""
        self.windows, self.finished, self.header = [], None, dict(header)
        self._file.cut(0)
        self._add(header)

    def check(self, now: Mapping[str, Any]) -> None:
        """Raise InputError where the file is of another run than this, saying what differs."""
        found = differences(now, self.header or {})
        if found:
            raise self._other(
                "; ".join(found), "the detector, options and columns that its rows were scored with", "give these again"
            )

    def window(self, window: Window) -> bool:
        """Whether the window was begun before. Raises InputError where it then was another."""
        if window.number >= len(self.windows):
            if self.finished is not None:
                raise self._changed(f"the input has more than the {self.finished:,} rows that were scored")
            return False
        was = self.windows[window.number]
        first, rows = window.first + 1, len(window.rows)
        if (was.get("first"), was.get("rows")) != (window.first, rows):
            raise self._changed(
                f"rows {first:,} to {window.first + rows:,} of the input stand where {was.get('rows'):,} rows from "
                f"{was.get('first', 0) + 1:,} on were planned"
            )
        if was.get("sha256") != window.digest:
            lines = f"lines {window.rows[0].line:,} to {window.rows[-1].line:,}"
            raise self._changed(f"some of rows {first:,} to {first + rows - 1:,} ({lines}) have changed")
        return True

    def add(self, window: Window) -> None:
        """The window is begun."""
        line = {"window": window.number, "first": window.first, "rows": len(window.rows), "sha256": window.digest}
        self._add(line)
        self.windows.append(line)

    def finish(self, rows: int) -> None:
        """All rows of the input are scored."""
        if self.finished is None:
            self._add({"finished": True, "rows": rows})
            self.finished = rows

    def close(self) -> None:
        """Close the file, which ends the lock."""
        self._file.close()

    def fewer(self, rows: int) -> InputError:
        """The error to raise where the input ends too early."""
        return self._changed(f"the input has {rows:,} rows now, fewer than were scored")

    def damaged(self, what: str) -> InputError:
        """The error to raise where the files of a run do not belong together."""
        return self._other(what, "the files as the run left them", "restore them")

    def _changed(self, what: str) -> InputError:
        names = ", ".join((self.header or {}).get("input", []))
        return self._other(what, f"the rows that were there before, read from {names}", "restore the input")

    def _other(self, what: str, expected: str, first: str) -> InputError:
        return InputError(
            f"{str(self.target)!r} cannot be continued: {what}",
            expected=expected,
            remedy=f"{first}, choose another output path, or start afresh (--overwrite, overwrite=True); "
            "no row has been lost",
        )

    def _read(self) -> None:
        end = 0
        for line in self._file.lines():
            found = _object(line)
            if self.header is None:
                if found is None or "format" not in found:
                    break
                self.header = found
            elif found is not None and found.get("window") == len(self.windows):
                self.windows.append(found)
            elif found is not None and "finished" in found and isinstance(found.get("rows"), int):
                self.finished = found["rows"]
            else:
                break
            end += len(line)
        self.torn = self.header is None and self._file.size > 0
        if not self.torn:
            self._file.cut(end)

    def _add(self, line: Mapping[str, Any]) -> None:
        self._file.append(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        self._file.sync()


def _object(line: bytes) -> dict[str, Any] | None:
    """What a whole line says, None where it is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _locked(path: Path, target: Path) -> Appended:
    while True:
        file = Appended(path)
        try:
            if fcntl is not None:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            own, there = os.fstat(file.fileno()), os.stat(path)
        except BlockingIOError as error:
            file.close()
            raise InputError(
                f"another run is writing {str(target)!r}",
                expected="one run at a time for an output",
                remedy="wait until it has ended, or choose another output path",
            ) from error
        except FileNotFoundError:  # the run before removed it between opening and locking
            file.close()
            continue
        except OSError:  # a file system without locks
            return file
        if (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino):
            return file
        file.close()
