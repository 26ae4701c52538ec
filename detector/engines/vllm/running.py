"""Scores so far, in memory that vLLM's worker writes and its front reads: no call between them for every token.

One entry for each answer under way: the tag of its request, its rows, and the sum of its contributions. A reader that
comes in the middle of a write sees the sum of a neighbouring token, never that of another answer: the tag is written
first.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from groundwire.errors import InputError

ENTRY = np.dtype([("tag", "<i8"), ("rows", "<i8"), ("sum", "<f8")])
BLOCK = 4096  # entries that one front process has
BLOCKS = 16  # front processes


class RunningFile:
    """The worker's side: makes the file, writes entries, hands out blocks of them to front processes."""

    def __init__(self) -> None:
        folder = Path("/dev/shm")  # memory, where there is such a thing
        handle, path = tempfile.mkstemp(prefix="groundwire-", dir=folder if folder.is_dir() else None)
        os.close(handle)
        self.path = Path(path)
        self._entries = np.memmap(self.path, ENTRY, "w+", shape=(BLOCK * BLOCKS,))
        self._given = 0

    def block(self) -> int:
        """The first entry of a front process's own block. Raises InputError where there are too many of them."""
        if self._given >= BLOCKS:
            raise InputError(
                f"more than {BLOCKS} API server processes", expected="fewer", remedy="lower --api-server-count"
            )
        self._given += 1
        return (self._given - 1) * BLOCK

    def write(self, place: int, tag: int, rows: int, total: float) -> None:
        """Set an entry; a place beyond the end is ignored."""
        if 0 <= place < len(self._entries):
            entry = self._entries[place]
            if entry["tag"] != tag:
                entry["rows"], entry["tag"] = 0, tag
            entry["sum"] = total
            entry["rows"] = rows

    def close(self) -> None:
        """Remove the file; who has it open keeps it."""
        self.path.unlink(missing_ok=True)


class RunningBlock:
    """A front process's side: reads entries, and says which are free. Raises InputError where the file is not here."""

    def __init__(self, path: str | Path, first: int) -> None:
        try:
            self._entries = np.memmap(path, ENTRY, "r")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the file of running scores cannot be read: {error}",
                expected="vLLM's worker of rank 0 on the machine of its API server",
                remedy="run both on one machine",
            ) from error
        self._free = list(range(first, first + BLOCK))
        self._lock = threading.Lock()

    def lend(self, count: int) -> tuple[int, ...]:
        """`count` places for answers; none at all where so many are not free."""
        with self._lock:
            if len(self._free) < count:
                return ()
            return tuple(self._free.pop() for _ in range(count))

    def give_back(self, places: Sequence[int]) -> None:
        """Places that `lend` gave."""
        with self._lock:
            self._free.extend(places)

    def read(self, place: int, tag: int) -> float | None:
        """The sum of contributions so far of the answer with that tag; None before its first row."""
        entry = self._entries[place]
        before, rows, total = int(entry["tag"]), int(entry["rows"]), float(entry["sum"])
        return total if rows > 0 and before == tag == int(entry["tag"]) else None


def tag(key: str) -> int:
    """The tag of a request."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True) or 1
