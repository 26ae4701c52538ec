"""Freed memory is kept for the next pass: on small machines the page faults of fresh memory cost more than sums."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
_KEEP = 2**31 - 1  # bytes


def keep_freed_memory() -> bool:
    """Tell the C library (glibc; others are left alone) to keep what is freed, for the whole process.

    For commands, not for a library: a program that only imports Groundwire decides for itself. What the user says in
    `MALLOC_TRIM_THRESHOLD_` or `MALLOC_MMAP_THRESHOLD_` counts. Returns whether anything was changed.
    """
    if not sys.platform.startswith("linux") or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_TRIM, _KEEP)) & bool(library.mallopt(_MMAP, _KEEP))
