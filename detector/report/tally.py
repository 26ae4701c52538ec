"""What a report keeps of the rows as they stream by: counters, the highest scores, and scores that have a label.

Memory does not grow with unlabelled rows; a labelled one costs some 30 bytes, a group its name.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from groundwire.counts import Counts, cluster
from groundwire.report.answers import Answer
from groundwire.report.rows import Scored

BINS = 20
MOST_VALUES = 1000
NONE = "(none)"
OTHERS = "(further values)"
Pair = tuple[Scored, Answer | None]


@dataclass
class Labelled:
    """Checked rows that have a label, as columns. `groups` numbers the groups; a row without one is its own."""

    labels: array = field(default_factory=lambda: array("q"))
    scores: array = field(default_factory=lambda: array("d"))
    flags: array = field(default_factory=lambda: array("q"))
    lengths: array = field(default_factory=lambda: array("q"))
    groups: array = field(default_factory=lambda: array("q"))
    named: dict[str, int] = field(default_factory=dict)
    numbered: int = 0

    def add(self, row: Scored, answer: Answer) -> None:
        self.labels.append(answer.label or 0)
        self.scores.append(row.score or 0.0)
        self.flags.append(row.flagged)
        self.lengths.append(len(answer.text or ""))
        self.groups.append(self._number(answer.group))

    def _number(self, group: str | None) -> int:
        number = self.numbered if group is None else self.named.setdefault(group, self.numbered)
        self.numbered += number == self.numbered
        return number

    def ints(self, column: str) -> Int[np.ndarray, " rows"]:
        return np.array(getattr(self, column), dtype=np.int64)

    def floats(self, column: str) -> Float[np.ndarray, " rows"]:
        return np.array(getattr(self, column), dtype=np.float64)


class Tally:
    """Counts rows given to `add`. `top`: how many of the highest scores to keep whole; `by`: columns to count by.

    detectors, thresholds: how many rows each was given for. histogram: checked rows per label and bin of the score.
    """

    def __init__(self, *, top: int, by: Sequence[str] = ()) -> None:
        self.top = top
        self.all = Counts()
        self.by: dict[str, dict[str, Counts]] = {column: {} for column in by}
        self.columns: set[str] = set()
        self.detectors: Counter[tuple[str, ...]] = Counter()
        self.thresholds: Counter[float] = Counter()
        self.histogram: dict[int | None, list[int]] = {label: [0] * BINS for label in (0, 1, None)}
        self.labelled = Labelled()
        self._highest: list[tuple[float, int, Pair]] = []

    def add(self, row: Scored, answer: Answer | None = None) -> None:
        """Count one row, and its answer where the file that was scored is at hand."""
        label = answer.label if answer else None
        _count(self.all, row, answer)
        if answer:
            self._add_columns(row, answer)
        if row.detector:
            self._limited(
                self.detectors, tuple(_name(row.detector.get(k)) for k in ("id", "version", "model", "hookpoint"))
            )
        if row.score is None:
            return
        self._limited(self.thresholds, row.threshold)
        self.histogram[label][min(int(row.score * BINS), BINS - 1)] += 1
        if answer and label is not None:
            self.labelled.add(row, answer)
        self._keep(row.score, (row, answer))

    @property
    def highest(self) -> list[Pair]:
        """The rows with the highest scores, highest first; of equal ones the first in the file."""
        return [pair for *_, pair in sorted(self._highest, key=lambda item: item[:2], reverse=True)]

    def _add_columns(self, row: Scored, answer: Answer) -> None:
        self.columns.update(list(answer.columns)[: max(0, MOST_VALUES - len(self.columns))])
        for column, values in self.by.items():
            value = answer.columns.get(column, NONE)
            if value not in values and len(values) >= MOST_VALUES:
                value = OTHERS
            _count(values.setdefault(value, Counts()), row, answer)

    def _keep(self, score: float, pair: Pair) -> None:
        item = (score, -self.all.rows, pair)  # the row's number decides before rows would be compared
        if len(self._highest) < self.top:
            heapq.heappush(self._highest, item)
        elif self.top:
            heapq.heappushpop(self._highest, item)

    @staticmethod
    def _limited(counter: Counter, key: object) -> None:
        if key in counter or len(counter) < MOST_VALUES:
            counter[key] += 1


def _count(counts: Counts, row: Scored, answer: Answer | None) -> None:
    counts.add(
        row.score,
        flagged=row.flagged,
        reason=row.reason,
        unlike=row.unlike.flag if row.unlike else None,
        label=answer.label if answer else None,
        group=cluster(answer.group, answer.messages) if answer and answer.label is not None else None,
        weight=answer.weight if answer else None,
    )


def _name(value: object) -> str:
    return value if isinstance(value, str) else "–"
