"""Detectors and a runner for these tests; as a script, a run to be killed.

It takes its time, and its outcomes come in another order than they were asked for:

    python slow.py IN OUT SECONDS
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from groundwire.batch.score import score_file
from groundwire.batch.unit import LocalRunner, Options, Scored, Unit, score_unit
from groundwire.types import Detection, Example


class SlowDetector:
    """The score is the share of an answer's words that do not stand in its prompt."""

    threshold = 0.5
    tokens_read = 0

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.units = seconds, 0

    def score_batch(
        self, examples: Sequence[Example], *, features: bool = False, passage_windows: bool = False
    ) -> list[Detection]:
        time.sleep(self.seconds)
        self.units += 1
        return [self._detect(example) for example in examples]

    def _detect(self, example: Example) -> Detection:
        words, known = example.response.split(), set(example.messages[0]["content"].split())
        score = sum(word not in known for word in words) / len(words)
        return Detection("checked", score=score, logit=score, intercept=0.0)


class Remembering:
    """A detector that scores no answer to a prompt twice: many rows take the time of few."""

    def __init__(self, detector: Any) -> None:
        self.detector, self.threshold = detector, detector.threshold
        self._found: dict[tuple[str, str], Detection] = {}

    @property
    def tokens_read(self) -> int:
        return self.detector.tokens_read

    def score_batch(
        self, examples: Sequence[Example], *, features: bool = False, passage_windows: bool = False
    ) -> list[Detection]:
        keys = [(example.messages[-1]["content"], example.response) for example in examples]
        new = {key: example for key, example in zip(keys, examples, strict=True) if key not in self._found}
        self._found.update(zip(new, self.detector.score_batch(list(new.values())), strict=True))
        return [self._found[key] for key in keys]


class BackwardsRunner(LocalRunner):
    """Four units are under way at a time; the last one is back first."""

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        remaining = iter(units)
        while taken := list(islice(remaining, 4)):
            for unit in reversed(taken):
                yield score_unit(self.detector, unit, self.options)


if __name__ == "__main__":
    detector = SlowDetector(float(sys.argv[3]))
    runner = BackwardsRunner(detector, Options(detector.threshold))
    score_file(detector, sys.argv[1], sys.argv[2], runner=runner, progress=False)
