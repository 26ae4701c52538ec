"""Rows of one kind, counted: what `groundwire score` and `groundwire report` say of a generator or any other column."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from groundwire.errors import InputError
from groundwire.rates import UNKNOWN, Evidence, Rate
from groundwire.types import Message


@dataclass
class Counts:
    """Rows of one kind. `rows` is `checked` and what was not; `unfaithful` counts labels among `labelled`.

    unlike: rows unlike training, of `placed` rows that say whether they are.
    """

    rows: int = 0
    checked: int = 0
    flagged: int = 0
    labelled: int = 0
    unfaithful: int = 0
    unlike: int = 0
    placed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    evidence: Evidence = field(default_factory=Evidence)

    @property
    def not_checked(self) -> int:
        return self.rows - self.checked

    def add(
        self,
        score: float | None,
        *,
        flagged: bool = False,
        reason: str | None = None,
        unlike: bool | None = None,
        label: int | None = None,
        group: Hashable = None,
        weight: float | None = None,
    ) -> None:
        """Count one row; `score` is None where it was not checked. Raises InputError on a label weight of no use."""
        self.rows += 1
        self.labelled += label is not None
        self.unfaithful += label == 1
        if score is None:
            self.reasons[reason or "unknown"] += 1
            return
        self.checked += 1
        self.flagged += flagged
        self.placed += unlike is not None
        self.unlike += bool(unlike)
        self.evidence.add(score, label, group=group, weight=weight)

    def corrected(self) -> Rate | str:
        """The rate of unfaithful answers among checked rows, or the words that say it is not known, and why not."""
        if not self.evidence.labels:
            return UNKNOWN
        try:
            return self.evidence.rate()
        except InputError as error:
            return f"{UNKNOWN} ({error.given}; expected: {error.expected})"


def shown(found: Rate | str) -> str:
    """A corrected rate as words: "12.0% (95% interval 9.1% to 14.9%; 200 labels)"."""
    if isinstance(found, str):
        return found
    return f"{found.value:.1%} (95% interval {found.low:.1%} to {found.high:.1%}; {found.labels:,} labels)"


def cluster(group: str | None, messages: Sequence[Message]) -> str | None:
    """What ties a row to others that are not independent of it: its group, else its prompt; None where neither is."""
    if group is not None or not messages:
        return group
    return hashlib.blake2b(json.dumps(list(messages)).encode(), digest_size=12).hexdigest()
