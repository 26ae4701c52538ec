"""The files of a run: OUT, and what stands beside it until, or after, all rows are written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def partial_path(target: Path) -> Path:
    """Where the rows of `target` lie, in the input's order, until all of them are written. Plain JSONL."""
    return target.with_name(target.name + ".partial")


def ahead_path(target: Path) -> Path:
    """Where rows wait that were finished before their turn."""
    return target.with_name(target.name + ".ahead")


def run_path(target: Path) -> Path:
    """What run `target` is of: by it a run is continued, and a finished one known."""
    return target.with_name(target.name + ".run")


def packing_path(target: Path) -> Path:
    """The output while it is brought into its format."""
    return target.with_name(target.name + ".packing")


def sync_folder(path: Path) -> None:
    """Force a folder's names to disk, so that new and renamed files outlive a power cut. Not all systems can."""
    with suppress(OSError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
