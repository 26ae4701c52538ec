"""A run's output on disk: every row from the moment it is finished, in files that the next run can continue.

`OUT.partial` holds the rows whose turn has come, in the input's order; `OUT.ahead` those that were finished before
their turn; `OUT.run` says what they belong to, and stays. Rows reach `OUT.partial` or `OUT.ahead` in one write for each
unit, forced to disk. Whatever ends the run, only the last lines of a file can be torn, and the next run cuts them off.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from groundwire.batch.ahead import Ahead
from groundwire.batch.appended import Appended
from groundwire.batch.kept import OutputRow, count_lines, finished_rows, whole_rows
from groundwire.batch.manifest import Manifest
from groundwire.batch.paths import ahead_path, partial_path, run_path, sync_folder
from groundwire.batch.windows import Window
from groundwire.batch.writer import exists, put_in_place, write_failed
from groundwire.errors import GroundwireError

PIECE = 2**22  # bytes written at a time where many rows waited for their turn


class FileOutput:
    """See `Output`. identity: see `groundwire.batch.identity`.

    resume: continue where an earlier run left OUT.run; overwrite: begin anew whatever there is.
    Raises InputError where another run writes to the same file, where what is there belongs to another run, or where
    there is something and neither is said; GroundwireError where the disk is full or fails. Any other error that leaves
    the context carries a note that says how many rows are kept and where.
    """

    complete = False

    def __init__(self, target: Path, identity: Mapping[str, Any], *, resume: bool = True, overwrite: bool = False):
        self.target, self.identity, self.resume, self.overwrite = target, identity, resume, overwrite
        self.rows = self.ahead = 0
        self._next = 0  # the place whose turn it is
        self._end = 0  # bytes of OUT.partial that are whole rows
        self._begun = 0  # windows
        self._waiting: dict[int, bytes] = {}  # rows before their turn that need not outlive this process
        self._kept: Iterator[tuple[int, OutputRow]] | None = None  # rows of an earlier run that are still to be seen
        self._partial: Appended | None = None
        self._ahead: Ahead | None = None
        self._failure: GroundwireError | None = None

    def __enter__(self) -> FileOutput:
        try:
            self._manifest = Manifest(run_path(self.target), self.target)
        except OSError as error:
            raise self._failed(error) from error
        try:
            self._start()
        except OSError as error:
            self._close()
            raise self._failed(error) from error
        except BaseException:
            self._close()
            raise
        return self

    def _start(self) -> None:
        partial, manifest = partial_path(self.target), self._manifest
        there = [path for path in (self.target, partial) if os.path.lexists(path)]
        known = manifest.header is not None and not self.overwrite and self.resume
        done = manifest.finished is not None
        if not known or (done and not there):
            self._fresh(there)
            return
        manifest.check(self.identity)
        if done and partial not in there:
            self.complete, self.rows = True, manifest.finished or 0
            self._kept = ((0, row) for row in finished_rows(self.target))
            return
        if self.target in there and not done and not (manifest.header or {}).get("replaces"):
            raise exists(self.target)
        self._partial = Appended(partial)
        self._ahead = Ahead(ahead_path(self.target), fresh=False)
        self.rows, self.ahead = count_lines(self._partial), len(self._ahead)
        self._kept = whole_rows(self._partial)

    def _fresh(self, there: list[Path]) -> None:
        if not self.overwrite and (there or self._manifest.torn):
            raise exists(there[-1] if there else run_path(self.target))
        replaces = {"replaces": True} if self.target in there else {}
        # Rows of the run before go before its name does: they must never be taken for this one's.
        self._partial = Appended(partial_path(self.target), fresh=self.overwrite, new=not self.overwrite)
        self._ahead = Ahead(ahead_path(self.target), fresh=True)
        self._manifest.begin({**self.identity, **replaces})
        sync_folder(self.target.parent)

    def begin(self, window: Window) -> dict[int, dict[str, Any]]:
        """See `Output.begin`."""
        try:
            return self._begin(window)
        except OSError as error:
            raise self._failed(error) from error
        except GroundwireError as error:
            self._failure = error  # it says itself that nothing is lost
            raise

    def _begin(self, window: Window) -> dict[int, dict[str, Any]]:
        known = self._manifest.window(window)
        self._begun += 1
        found: dict[int, dict[str, Any]] = {}
        if not known:
            if self._next_kept() is not None:
                run = str(run_path(self.target))
                raise self._manifest.damaged(f"it has more than the {window.first:,} rows that {run!r} knows of")
            self._manifest.add(window)
            return found
        for at, row in zip(window.places, window.rows, strict=True):
            kept = self._next_kept()
            if kept is not None:
                self._next = at + 1
            elif self._ahead is not None and at in self._ahead:
                kept = self._ahead.get(at)
            elif self.complete:
                raise self._manifest.damaged(f"it has {at:,} of {self.rows:,} rows")
            else:
                continue
            if str(kept["id"]) != str(row.id):
                raise self._manifest.damaged(f"its row {at + 1:,} has the id {kept['id']!r}, the input {row.id!r}")
            found[at] = kept["hallucination"]
        return found

    def _next_kept(self) -> OutputRow | None:
        """The next row of an earlier run. After the last one, what is torn is cut off, and rows can be added."""
        if self._kept is None:
            return None
        end, row = next(self._kept, (0, None))
        if row is not None:
            self._end = end
            return row
        self._kept = None
        if self._partial is not None:
            self._partial.cut(self._end)
        if self._ahead is not None:
            self._ahead.forget_before(self._next)
        return None

    def put(self, rows: Iterable[tuple[int, bytes]], *, keep: bool = True) -> None:
        """See `Output.put`."""
        given = list(rows)
        self._waiting.update(given)
        try:
            wrote = self._drain()
            if keep and self._ahead is not None:
                early = [(at, line) for at, line in given if at in self._waiting]
                self._ahead.add(early)
                for at, _ in early:
                    del self._waiting[at]
            if wrote and self._ahead is not None:
                self._ahead.tidy()
        except OSError as error:
            raise self._failed(error) from error

    def _drain(self) -> bool:
        """Write the rows whose turn has come, on disk when this returns; whether there were any."""
        begun = self._next
        while self._partial is not None and (lines := self._due()):
            self._partial.append(b"".join(lines))
            turn = range(self._next, self._next + len(lines))
            self._next = turn.stop
            for at in turn:
                self._waiting.pop(at, None)
            if self._ahead is not None:
                self._ahead.forget(turn)
        if self._partial is not None and self._next > begun:
            self._partial.sync()
        return self._next > begun

    def _due(self) -> list[bytes]:
        """Lines whose turn has come, as many as are written at once."""
        lines, size, at = list[bytes](), 0, self._next
        while size < PIECE and self._kept is None:
            if at in self._waiting:
                line = self._waiting[at]
            elif self._ahead is not None and at in self._ahead:
                line = self._ahead.line(at)
            else:
                break
            lines.append(line)
            size, at = size + len(line), at + 1
        return lines

    def finish(self, rows: int) -> None:
        """See `Output.finish`."""
        if self._next_kept() is not None or self._begun < len(self._manifest.windows):
            raise self._manifest.fewer(rows)
        if self.complete or self._partial is None or self._ahead is None:
            return
        try:
            self._drain()
            if self._next != rows:
                raise GroundwireError(f"row {self._next + 1:,} of {rows:,} was never finished")
            self._partial.sync()
            self._manifest.finish(rows)
            self._partial.close()
            put_in_place(self._partial.path, self.target)
            self._ahead.close()
            ahead_path(self.target).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not self.complete:
            if not self._counts()[0] and not self._counts()[1]:
                # Nothing to keep, and the next run should not stumble over it.
                for path in (partial_path(self.target), ahead_path(self.target), run_path(self.target)):
                    with suppress(OSError):
                        path.unlink()
            if error is not self._failure:
                error.add_note(f"{self._whereabouts()}.")
        self._close()

    def _close(self) -> None:
        for file in (self._partial, self._ahead):
            if file is not None:
                with suppress(OSError):
                    file.close()
        if self._manifest.empty:
            with suppress(OSError):
                run_path(self.target).unlink()
        with suppress(OSError):
            self._manifest.close()  # last, for it ends the lock

    def _failed(self, error: OSError) -> GroundwireError:
        path = Path(error.filename) if error.filename else partial_path(self.target)
        self._failure = write_failed(path, error, self._whereabouts())
        return self._failure

    def _counts(self) -> tuple[int, int]:
        """Rows in OUT.partial, and in OUT.ahead."""
        return self._next if self._kept is None else self.rows, len(self._ahead) if self._ahead is not None else 0

    def _whereabouts(self) -> str:
        rows, ahead = self._counts()
        if not rows and not ahead:
            return "no row was written"
        more = f", {ahead} more in {str(ahead_path(self.target))!r}" if ahead else ""
        again = "the same command without --overwrite" if self.overwrite else "the same command"
        return f"{rows} finished rows are kept in {str(partial_path(self.target))!r}{more}; {again} continues there"
