"""Groups rows for scoring. Rows of one prompt that stand together stay together, so that it is encoded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from groundwire.batch.reader import ExampleRow, Row

SIZE = 64  # rows: enough for full batches, few enough that a killed run loses seconds of work
CAP = 256  # rows: bounds memory where all rows of a file share one prompt


def chunked(rows: Iterable[Row], *, size: int = SIZE, cap: int = CAP) -> Iterator[list[Row]]:
    """Lists of `size` rows, in order, longer where the next rows share the last one's prompt, never beyond `cap`."""
    chunk: list[Row] = []
    for row in rows:
        if len(chunk) >= cap or (len(chunk) >= size and not _same_prompt(chunk[-1], row)):
            yield chunk
            chunk = []
        chunk.append(row)
    if chunk:
        yield chunk


def _same_prompt(one: Row, other: Row) -> bool:
    if not isinstance(one, ExampleRow) or not isinstance(other, ExampleRow):
        return False
    return one.example.messages == other.example.messages
