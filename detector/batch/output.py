"""Where the rows of a run go: a file (`FileOutput`), or standard output, of which nothing can be taken up again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from groundwire.batch.windows import Window
from groundwire.errors import GroundwireError

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def line_of(name: str | int, verdict: Mapping[str, Any]) -> bytes:
    """An output row as it is written."""
    return _encode({"id": name, "hallucination": verdict}).encode() + b"\n"


@runtime_checkable
class Output(Protocol):
    """Where rows go. A context manager. rows, ahead: that are there, and that wait for their turn, from earlier runs.

    complete: whether an earlier run has written all there is, so that nothing is to be written.
    """

    rows: int
    ahead: int
    complete: bool

    def __enter__(self) -> Output: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self, window: Window) -> dict[int, dict[str, Any]]:
        """The next window of the input; what is there of it: verdicts by place. Raises InputError where it differs."""
        ...

    def put(self, rows: Iterable[tuple[int, bytes]], *, keep: bool = True) -> None:
        """Rows (place, line) that are finished. keep: those before their turn must outlive this process."""
        ...

    def finish(self, rows: int) -> None:
        """The input has ended after so many rows, all of which are finished."""
        ...


class StreamOutput:
    """See `Output`. Raises GroundwireError where nobody reads standard output any more."""

    rows = ahead = 0
    complete = False

    def __init__(self) -> None:
        self._next = 0
        self._waiting: dict[int, bytes] = {}

    def __enter__(self) -> StreamOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def begin(self, window: Window) -> dict[int, dict[str, Any]]:
        """See `Output.begin`."""
        return {}

    def put(self, rows: Iterable[tuple[int, bytes]], *, keep: bool = True) -> None:
        """See `Output.put`."""
        self._waiting.update(rows)
        lines = []
        while (line := self._waiting.pop(self._next, None)) is not None:
            lines.append(line.decode())
            self._next += 1
        try:
            sys.stdout.write("".join(lines))
            sys.stdout.flush()
        except OSError as error:
            raise GroundwireError(
                f"cannot write to standard output: {error.strerror or error}",
                expected="a reader of it, or a file",
                remedy="write to a file instead",
            ) from error

    def finish(self, rows: int) -> None:
        """See `Output.finish`."""
