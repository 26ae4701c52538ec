"""What a run's summary says of all rows and of each generator. Memory grows with generators and labelled groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from groundwire.batch.reader import ExampleRow, Row
from groundwire.counts import Counts, cluster, shown
from groundwire.errors import InputError
from groundwire.rates import UNKNOWN, Rate, check_sources

MOST = 1000  # generators counted apart
SHOWN = 20
NONE, OTHERS = "(none)", "(further values)"


class Origins:
    """Counts of all rows, and by their `generator`."""

    def __init__(self) -> None:
        self.all = Counts()
        self.by: dict[str, Counts] = {}

    def add(self, verdict: Mapping[str, Any], row: Row) -> None:
        """Count one row by what stands under its "hallucination".

        A label or weight that makes no sense is no concern of scoring: the row counts without.
        """
        name = _name(row.about.get("generator"))
        if name not in self.by and len(self.by) >= MOST:
            name = OTHERS
        label, weight = _label(row.about)
        tied = None
        if label is not None and isinstance(row, ExampleRow):
            group = row.about.get("group")
            tied = cluster(None if group is None else str(group), row.example.messages)
        by = self.by.get(name)
        if by is None:
            by = self.by[name] = Counts()
        score = verdict["score"] if verdict["status"] == "checked" else None
        place = verdict["unlike_training"]
        unlike = bool(place["flag"]) if place else None
        flagged, reason = bool(verdict["flagged"]), verdict["reason"]
        for counts in (self.all, by):
            counts.add(score, flagged=flagged, reason=reason, unlike=unlike, label=label, group=tied, weight=weight)

    def corrected(self) -> Rate | str:
        """The rate of all checked rows; not where labels are of some generators only."""
        found = self.all.corrected()
        try:
            if isinstance(found, Rate):
                check_sources({name: counts.evidence for name, counts in self.by.items()})
        except InputError as error:
            return f"{UNKNOWN} ({error.given})"
        return found

    def lines(self) -> list[str]:
        """What each generator's rows came to, the largest first; none where rows do not differ."""
        if len(self.by) < 2:
            return []
        ranked = sorted(self.by.items(), key=lambda item: (-item[1].rows, item[0]))
        left = len(ranked) - SHOWN
        more = [f"  [ {left} further generators left out ]"] if left > 0 else []
        return ["by generator", *(f"  {name[:40]}: {_line(counts)}" for name, counts in ranked[:SHOWN]), *more]


def unlike(counts: Counts) -> str:
    """Rows unlike training, of those that say whether they are."""
    return f"{counts.unlike} ({counts.unlike / counts.placed:.1%} of checked)" if counts.placed else "-"


def _line(counts: Counts) -> str:
    flagged = f"{counts.flagged / counts.checked:.1%} flagged" if counts.checked else "none checked"
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts.reasons.most_common())
    left = f"{counts.not_checked} not checked" + (f" ({reasons})" if reasons else "")
    rate = shown(counts.corrected())
    return f"{counts.rows} rows, {flagged}, {left}, unlike training {unlike(counts)}; unfaithful: {rate}"


def _name(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else NONE


def _label(about: Mapping[str, Any]) -> tuple[int | None, float | None]:
    label, weight = about.get("label"), about.get("label_weight")
    if not isinstance(label, int | float) or label not in (0, 1):
        return None, None
    if weight is None:
        return int(label), None
    usable = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < math.inf
    return (int(label), float(weight)) if usable else (None, None)
