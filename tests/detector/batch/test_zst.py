from __future__ import annotations

import io

import pytest

from groundwire.batch.zst import ZstdStream

zstandard = pytest.importorskip("zstandard")
TEXT = b"".join(b"line %d\n" % i for i in range(50_000))


def test_all_frames_are_read_by_lines():
    packed = zstandard.compress(TEXT) + zstandard.compress(b"more\n")
    stream = io.BufferedReader(ZstdStream(io.BytesIO(packed), zstandard))
    assert b"".join(stream) == TEXT + b"more\n"


def test_a_truncated_file_is_not_taken_for_a_whole_one():
    packed = zstandard.compress(TEXT)
    with pytest.raises(EOFError, match="ended before"):
        ZstdStream(io.BytesIO(packed[: len(packed) // 2]), zstandard).readall()
