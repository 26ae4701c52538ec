"""Detectors for other processes: slow ones, ones that kill their process, ones that break. And units for them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from groundwire.batch.unit import BatchDetector, Unit
from groundwire.engines.fake import fake_detector
from groundwire.errors import CaptureError
from groundwire.types import Detection, Example

PROMPT = "The lighthouse was built in 1889 by a builder from Lisbon."
GOOD, BAD, FATAL, BROKEN = "It was built in 1889.", "It was built in 1931.", "kill me", "break me"
ODD = "odd one"


class Breaking:
    """The fake detector, that notes its process in `folder` and takes `seconds` for a unit.

    With `together`, it scores nothing before so many processes have one: a quick worker leaves work to a slow one.
    A response FATAL kills its process, `times` times over all processes; BROKEN raises, and so does
    ODD, by a fault that is no error of ours; with "ZeroDivisionError" it stays broken.
    """

    def __init__(self, folder: Path, seconds: float = 0.0, times: int = 1, together: int = 1) -> None:
        self.inner = fake_detector()
        self.threshold, self.seconds, self.folder, self.times = self.inner.threshold, seconds, folder, times
        self.together = together
        self.broken = False
        (folder / f"{os.getpid()}.pid").touch()

    @property
    def tokens_read(self) -> int:
        return self.inner.tokens_read

    def score_batch(self, examples: Sequence[Example], **options: Any) -> list[Detection]:
        time.sleep(self.seconds)
        end = time.monotonic() + 120
        while len(pids(self.folder)) < self.together:
            assert time.monotonic() < end, f"only {len(pids(self.folder))} of {self.together} workers started"
            time.sleep(0.01)
        responses = [example.response for example in examples]
        if FATAL in responses and len(list(self.folder.glob("*.death"))) < self.times:
            (self.folder / f"{os.getpid()}.death").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if BROKEN in responses:
            raise CaptureError("broken on demand", expected="another response", remedy="ask for less")
        self.broken = self.broken or ZeroDivisionError.__name__ in responses
        if self.broken or ODD in responses:
            raise ZeroDivisionError("as asked")
        return self.inner.score_batch(examples, **options)


def breaking(folder: Path, **how: Any) -> partial[BatchDetector]:
    """A recipe for `Breaking`."""
    return partial(Breaking, folder, **how)


def unloadable() -> BatchDetector:
    raise FileNotFoundError("no such detector")


def pids(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.pid")]


def units(count: int, size: int = 3, **responses: str) -> list[Unit]:
    """Units of `size` rows of two prompts. responses: of the first row of single units, as `unit4="..."`."""
    found = []
    for number in range(count):
        places = tuple(range(number * size, (number + 1) * size))
        texts = [GOOD if place % 3 else BAD for place in places]
        texts[0] = responses.get(f"unit{number}", texts[0])
        examples = [
            Example(f"row {place}", [{"role": "user", "content": f"{PROMPT} {place % 2}"}], text)
            for place, text in zip(places, texts, strict=True)
        ]
        found.append(Unit(number, places, tuple(examples)))
    return found
