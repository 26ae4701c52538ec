"""A zstd file as plain bytes. The library's own reader takes a truncated file for a whole one; this one does not."""

from __future__ import annotations

import io
from typing import Any

PIECE = 2**11  # bytes read at a time: few, for each can decompress to many times its size


class ZstdStream(io.RawIOBase):
    """The bytes of all frames of `file`, one after the other; `library` is `zstandard`.

    Raises EOFError where the file ends within a frame, the library's ZstdError where it is no zstd.
    """

    def __init__(self, file: io.BufferedIOBase, library: Any) -> None:
        self._file, self._library = file, library
        self._frame: Any = None
        self._ready: bytes | memoryview = b""
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self._rest or self._file.read(PIECE)
            self._rest = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            self._frame = self._frame or self._library.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(piece))  # what is taken off is not copied
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
