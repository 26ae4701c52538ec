"""Events as another server sends them, cut anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.server.sse import payloads


def read(parts: Sequence[bytes], limit: int = 1000) -> list[bytes]:
    async def source() -> AsyncGenerator[bytes]:
        for part in parts:
            yield part

    async def run() -> list[bytes]:
        return [data async for data in payloads(source(), limit)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        (b"data: 1\n\ndata: 2\n\n", [b"1", b"2"]),
        (b"data:1\r\n\r\ndata:  2\r\n\r\n", [b"1", b" 2"]),
        (b"data: 1\r\rdata: 2\r\r\n", [b"1", b"2"]),
        (b": still there\n\nevent: x\nid: 3\ndata: a\ndata: b\n\n\n\n", [b"a\nb"]),
        (b"data: cut off", []),
        (b"data: 1\n\ndata: [DONE]", [b"1", b"[DONE]"]),
        (b"data: 1\n\ndata: [DONE]\r\n", [b"1", b"[DONE]"]),
        (b"nothing of the kind\n\n", []),
        (b"", []),
    ],
)
def test_the_data_of_each_event(sent, found):
    assert read([sent]) == found


@given(st.lists(st.integers(1, 7)))
def test_however_the_bytes_are_cut(sizes):
    sent, parts, at = b"data: one\r\n\r\n: c\r\ndata: t\ndata: wo\r\rdata: [DONE]\n\n", [], 0
    for size in sizes:
        parts.append(sent[at : at + size])
        at += size
    assert read([*parts, sent[at:]]) == [b"one", b"t\nwo", b"[DONE]"]


@pytest.mark.parametrize("line", [b"data: " + b"x" * 2000, b"data: " + b"x" * 600 + b"\ndata: " + b"x" * 600])
def test_an_event_without_an_end_is_refused(line):
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        read([line])
