"""What a run came to. Rows that an earlier run scored count like those of this one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from groundwire.batch.origins import Origins
from groundwire.batch.reader import Row

SHOWN = 5


@dataclass
class Summary:
    """What a run did. `not_checked` counts by reason; `rows` is `checked` and all of these; `seconds` is wall time.

    earlier: of the rows, those that were there when the run began. complete: whether these were all there are, and OUT
    was finished. tokens: read by the model in this run.
    unreadable: why the first few rows could not be read.
    counts: the same by generator, with what else the rows say of themselves.
    """

    rows: int = 0
    checked: int = 0
    flagged: int = 0
    not_checked: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    earlier: int = 0
    complete: bool = False
    tokens: int = 0
    counts: Origins = field(default_factory=Origins)
    unreadable: list[str] = field(default_factory=list)

    @property
    def invalid(self) -> int:
        """Rows that could not be read."""
        return self.not_checked["invalid_input"]

    def add(self, verdict: Mapping[str, Any], row: Row, *, earlier: bool = False) -> None:
        """Count a row by what is written under its "hallucination"."""
        self.counts.add(verdict, row)
        self.rows += 1
        self.earlier += earlier
        if verdict["status"] == "checked":
            self.checked += 1
            self.flagged += bool(verdict["flagged"])
        else:
            self.not_checked[str(verdict["reason"])] += 1
            if verdict["reason"] == "invalid_input" and len(self.unreadable) < SHOWN:
                self.unreadable.append(str(verdict.get("detail")))
