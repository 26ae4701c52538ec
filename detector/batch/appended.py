"""A file that grows at its end, straight to the operating system: what `append` took survives kill -9."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


class Appended:
    """An open file with its size. Everything raises OSError where the disk is full or fails.

    fresh: begin with nothing, whatever the file held. new: the file must not exist yet (FileExistsError).
    """

    def __init__(self, path: Path, *, fresh: bool = False, new: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT | (os.O_TRUNC if fresh else 0) | (os.O_EXCL if new else 0)
        self.path = path
        # Unbuffered: what is written is with the operating system when `append` returns.
        self._file = os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666), "r+b", buffering=0)
        self.size = 0 if fresh or new else os.fstat(self._file.fileno()).st_size

    def fileno(self) -> int:
        return self._file.fileno()

    def append(self, data: bytes) -> int:
        """Add `data`; return where it begins. Where it does not fit, what was written of it is cut off again."""
        start, left = self.size, memoryview(data)
        self._file.seek(start)
        try:
            while left:
                left = left[self._file.write(left) or 0 :]
        except BaseException:
            with suppress(OSError):
                self._file.truncate(start)
            raise
        self.size += len(data)
        return start

    def read(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`."""
        self._file.seek(start)
        data = b""
        while len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        return data

    def lines(self) -> Iterator[bytes]:
        """All lines, from the first; the last may be torn."""
        with open(self.path, "rb") as file:
            yield from file

    def cut(self, size: int) -> None:
        """Leave only the first `size` bytes."""
        if size < self.size:
            self._file.truncate(size)
            self.size = size

    def sync(self) -> None:
        """Force all of it to disk, where it outlives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
