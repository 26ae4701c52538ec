"""OUT.ahead: rows that were finished before their turn, kept on disk until those before them are finished.

    {"place": 17, "id": 18, "hallucination": {...}}

A line is an output row with its place in the input, from 0. Only where each lies is held in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from groundwire.batch.appended import Appended
from groundwire.batch.kept import whole_row

DEAD = 64 * 2**20  # bytes of rows whose turn has come that may lie in the file


class Ahead:
    """The file, and which places it holds. Everything raises OSError where the disk is full or fails.

    fresh: begin with nothing. Else the file is read, up to the first line that is torn.
    """

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self._file = Appended(path, fresh=fresh)
        self._where: dict[int, tuple[int, int]] = {}  # place: first byte after the place, and the bytes from there
        self._live = 0
        if not fresh:
            self._read()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, place: int) -> bool:
        return place in self._where

    def add(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Keep rows (place, line) in one write, on disk when this returns."""
        lines, where, start = [], [], self._file.size
        for place, line in rows:
            head = b'{"place": %d, ' % place
            where.append((place, (start + len(head), len(line) - 1)))
            lines += [head, line[1:]]
            start += len(head) + len(line) - 1
        if lines:
            self._file.append(b"".join(lines))
            self._file.sync()
            self._where.update(where)
            self._live += sum(size for _, (_, size) in where)

    def get(self, place: int) -> dict[str, Any]:
        """A row that is kept."""
        found: dict[str, Any] = json.loads(self.line(place))
        return found

    def line(self, place: int) -> bytes:
        """The output line of a row that is kept."""
        return b"{" + self._file.read(*self._where[place])

    def forget(self, places: Iterable[int]) -> None:
        """Rows that have had their turn; others may be among them. They stay in the file until `tidy`."""
        for place in places:
            if place in self._where:
                self._live -= self._where.pop(place)[1]

    def forget_before(self, place: int) -> None:
        """Rows before `place` have had their turn."""
        self.forget([each for each in self._where if each < place])

    def tidy(self) -> None:
        """Give the space of rows that were taken back. They must be safe elsewhere."""
        if not self._where:
            self._file.cut(0)
        elif self._file.size - self._live > DEAD + 2 * self._live:
            self._rewrite()

    def close(self) -> None:
        self._file.close()

    def _rewrite(self) -> None:
        """Write what is live anew; the old file serves until the new one is whole."""
        path = self._file.path
        new = Ahead(path.with_name(path.name + ".new"), fresh=True)
        new.add((place, self.line(place)) for place in self._where)
        os.replace(new._file.path, path)
        self._file.close()
        new._file.path = path
        self._file, self._where, self._live = new._file, new._where, new._live

    def _read(self) -> None:
        end = 0
        for line in self._file.lines():
            place = (whole_row(line) or {}).get("place")
            if not isinstance(place, int) or not line.startswith(head := b'{"place": %d, ' % place):
                break
            self._where[place] = (end + len(head), len(line) - len(head))
            end += len(line)
        self._live = sum(size for _, size in self._where.values())
        self._file.cut(end)
