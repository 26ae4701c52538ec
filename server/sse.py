"""Server-sent events as they are read from another server."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable

DONE = b"[DONE]"  # the data of the last event of OpenAI's streams
_END = re.compile(rb"\r\n|\n|\r(?=.)", re.DOTALL)  # a \r at the end of what has come may be half of \r\n


async def payloads(chunks: AsyncIterable[bytes], limit: int) -> AsyncGenerator[bytes]:
    """The data of each event, however the bytes are cut. An event that is not complete at the end is dropped, unless it
    is the last one of all. Raises ValueError where one is longer than `limit` bytes."""
    rest, data = b"", list[bytes]()
    async for chunk in chunks:
        *lines, rest = _END.split(rest + chunk)
        for line in lines:
            if line:
                data += _data(line)
            elif data:
                yield b"\n".join(data)
                data = []
        if len(rest) + sum(map(len, data)) > limit:
            raise ValueError(f"an event of more than {limit} bytes")
    if b"\n".join([*data, *_data(rest.rstrip(b"\r"))]) == DONE:
        yield DONE


def _data(line: bytes) -> list[bytes]:
    """What a line adds to its event: nothing, where it is a comment or another field."""
    name, _, value = line.partition(b":")
    return [value.removeprefix(b" ")] if name == b"data" else []
