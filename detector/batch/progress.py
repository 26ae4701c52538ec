"""What a run says of itself while it runs, on standard error: what it begins with, how long it may take, a bar."""

from __future__ import annotations

import sys
from time import perf_counter

from tqdm import tqdm

from groundwire.batch.unit import Scored
from groundwire.batch.units import characters_of
from groundwire.batch.windows import Window

CHARACTERS_A_TOKEN = 4  # before any was counted; of English text


class Progress:
    """Context manager. rows: of the input, size: its bytes; None where only reading can tell.

    there: rows scored before. shown: whether to say anything; the bar is for terminals only.
    """

    def __init__(self, *, rows: int | None, size: int | None, there: int = 0, shown: bool = True) -> None:
        self.rows, self.size, self.there, self.shown = rows, size, there, shown
        self.tokens = 0
        self._read = 0  # characters of the units that came back
        self._per_row = 0.0  # characters
        self._first = 0  # units that were under way when the first came back; they say how fast it goes
        self._back = 0
        self._bar = tqdm(total=rows, initial=there, unit="row", desc="scoring", disable=None if shown else True)
        self._start: float | None = None

    def __enter__(self) -> Progress:
        if self.there:
            self._say(f"{self.there:,} rows are scored already; comparing the input with what they were scored from")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def window(self, window: Window) -> None:
        """A window whose units come next. The first says how long the rows are."""
        if self._start is not None:
            return
        self._start, self._per_row = perf_counter(), window.characters / len(window.rows)
        size = "" if self.size is None else f" of {size_of(self.size)}"
        if self.rows is None:
            self._say(f"scoring rows{size}")
            return
        tokens = _round(self._left * self._per_row / CHARACTERS_A_TOKEN)
        self._say(f"scoring {self._left:,} rows{size}, about {tokens:,} tokens to read")

    def add(self, rows: int) -> None:
        """Rows that are finished."""
        self._bar.update(rows)

    def unit(self, scored: Scored, under_way: int) -> None:
        """A unit that came back while so many others were under way."""
        self.tokens += scored.tokens
        self._back += 1
        self._first = self._first or 1 + under_way
        seconds = 0.0 if self._start is None else perf_counter() - self._start
        if self._back <= self._first:
            self._read += characters_of(scored.unit.examples)
        if self._back == self._first:
            self._estimate(seconds)
        if not self._bar.disable and seconds:
            self._bar.set_postfix_str(f"{self.tokens / seconds:,.0f} tokens/s", refresh=False)

    @property
    def _left(self) -> int:
        return max(0, (self.rows or 0) - self.there)

    def _estimate(self, seconds: float) -> None:
        speed = self.tokens / seconds if seconds else 0.0
        if not speed or not self._read:
            return
        if self.rows is None:
            self._say(f"about {_round(speed):,} tokens/s")
            return
        tokens = self._left * self._per_row * self.tokens / self._read
        self._say(
            f"{self._left:,} rows, about {_round(tokens):,} tokens, "
            f"about {duration(tokens / speed)} at {_round(speed):,} tokens/s"
        )

    def _say(self, text: str) -> None:
        if self.shown:
            tqdm.write(text, file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "2 min", "3 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def size_of(size: int) -> str:
    """Bytes in words: "12.3 MB"."""
    if size < 1000:
        return f"{size} bytes"
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def _round(number: float) -> int:
    """Two or three digits: more would be a promise."""
    digits = max(0, len(str(int(number))) - 3)
    return int(round(number, -digits))
