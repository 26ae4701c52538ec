"""The opt-in log of verdicts: JSON lines that `groundwire report` reads, rotated by size.

Written by a thread of its own: an answer never waits for the disk. Where the disk cannot keep up or fails, verdicts are
dropped and counted. Unless text is asked for, nothing of prompt or answer is written, spans' and tokens' text included.

    verdicts.jsonl      the newest; beyond `max_bytes` it becomes
    verdicts.jsonl.1    and so on, up to `files` of these
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Full, Queue
from time import time
from typing import Any

from groundwire.errors import InputError
from groundwire.types import Message, Verdict

logger = logging.getLogger(__name__)

WAITING = 1024  # verdicts that may wait for the disk


@dataclass(frozen=True)
class Entry:
    """One answer and its verdict. `id` should be unique; `source` says where the answer came from.

    `response` is the text that was checked: spans count its characters.
    """

    id: str
    source: str
    verdict: Verdict
    model: str | None = None
    messages: Sequence[Message] = ()
    response: str | None = None
    time: float = field(default_factory=time)


class VerdictLog:
    """Appends entries to `path`. `dropped` is called for each that could not be written.

    Raises InputError where the file cannot be opened.
    """

    def __init__(
        self,
        path: Path,
        *,
        text: bool = False,
        max_bytes: int = 64 << 20,
        files: int = 5,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self.path, self.text, self.max_bytes, self.files, self._dropped = path, text, max_bytes, files, dropped
        self._queue: Queue[Entry | None] = Queue(WAITING)
        self._failing = False
        self._file = _opened(path)
        self._thread = threading.Thread(target=self._run, name="groundwire-verdict-log", daemon=True)
        self._thread.start()

    def write(self, entry: Entry) -> None:
        """Hand over an entry; returns at once."""
        if not self.text:  # else texts that nobody will see would wait for the disk
            entry = replace(entry, messages=(), response=None)
        try:
            self._queue.put_nowait(entry)
        except Full:
            self._dropped()

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, for at most `timeout` seconds, and close the file."""
        try:
            self._queue.put(None, timeout=timeout)
        except Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            try:
                self._append(json.dumps(_row(entry, text=self.text)).encode() + b"\n")
                self._failing = False
            except Exception as error:  # the disk is full, or the file gone: the endpoint goes on answering
                self._dropped()
                if not self._failing:
                    logger.error("verdict log cannot be written", extra={"fields": {"error": type(error).__name__}})
                self._failing = True
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        if size and size + len(line) > self.max_bytes:
            self._rotate()
            size = 0
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError("the disk is full")
        except OSError:
            os.ftruncate(self._file, size)  # half a line would make the file unreadable
            raise

    def _rotate(self) -> None:
        for i in range(self.files, 0, -1):
            older = self._numbered(i)
            newer = self._numbered(i - 1)
            if newer.exists():
                newer.replace(older)
        fresh = _open(self.path)
        os.close(self._file)
        self._file = fresh

    def _numbered(self, i: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{i}") if i else self.path


def _row(entry: Entry, *, text: bool) -> dict[str, Any]:
    """The line of an entry: what `groundwire score` writes, and when and where from."""
    about = {
        "id": entry.id,
        "time": datetime.fromtimestamp(entry.time, UTC).isoformat(timespec="milliseconds"),
        "source": entry.source,
        "model": entry.model,
    }
    verdict = entry.verdict.to_dict()
    if not text:
        return {**about, "hallucination": _without_text(verdict)}
    return {**about, "messages": list(entry.messages), "response": entry.response, "hallucination": verdict}


def _without_text(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict without anything that quotes prompt or answer; numbers and places stay."""
    kept = {key: value for key, value in verdict.items() if key != "detail"}
    return kept | {
        "explanation": None,
        "spans": [span | {"text": "", "evidence": None, "reason": None} for span in verdict["spans"]],
        "sentences": [sentence | {"text": "", "reason": None} for sentence in verdict["sentences"]],
        "terms": [term | {"token": None} for term in verdict["terms"]],
    }


def check_log(path: Path) -> None:
    """Raise InputError where `path` cannot be written."""
    os.close(_opened(path))


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _open(path)
    except OSError as error:
        raise InputError(
            f"the verdict log {str(path)!r} cannot be written: {error.strerror or error}",
            expected="a file in a folder that the server may write to",
            remedy="name another file, or give the server's user the right to write there",
        ) from error


def _open(path: Path) -> int:
    """`path` for appending, readable by its owner alone, and without the half line a killed process may have left."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    end = os.fstat(file).st_size
    while end and os.pread(file, 1, end - 1) != b"\n":
        end -= 1
    os.ftruncate(file, end)
    return file
