"""The share of unfaithful answers, from the scores of all rows and labels of some: prediction-powered inference.

    rate = mean label + power * (mean score of all rows - mean score of labelled rows)

Scores err; the labelled rows say by how much (Angelopoulos et al. 2023, arXiv 2301.09633). `power` is chosen to make
the variance least (PPI++, arXiv 2311.01453): a useless detector gets 0, and the labels alone speak. Means over labelled
rows are weighted by one over the probability with which a row was drawn (Horvitz and Thompson 1952; normalised, Hajek
1971). The rate is that of the rows at hand, so the mean score of all rows is known and adds no variance. Rows of one
group (prompt, document) are not independent: the variance is of sums over groups, and degrees of freedom count groups.

Memory grows with groups that have labels, not with rows.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from groundwire.errors import InputError

LEAST_LABELS = 40
LEAST_GROUPS = 20
LEAST_OF_EACH = 8  # labels of the rarer kind: with fewer the estimate is too skewed for a symmetric interval
UNKNOWN = "not corrected: accuracy on this data is unknown"
_CHANCE = 0.001  # labels that miss a source although a random sample would hardly have missed it are none of it
_NORMAL = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """Estimated share of unfaithful answers with its 95 % interval. `labels` of `groups` groups stand behind it.

    power: how much the scores counted, 0 is not at all. alone: the interval that the labels give without scores.
    """

    value: float
    low: float
    high: float
    labels: int
    groups: int
    power: float
    alone: tuple[float, float]


@dataclass
class Evidence:
    """Scores of rows and labels of some, summed as they stream by."""

    rows: int = 0
    total: float = 0.0
    labels: int = 0
    unfaithful: int = 0
    weighted: int = 0
    _groups: dict[Hashable, list[float]] = field(default_factory=dict)

    def add(
        self, score: float, label: int | None = None, *, group: Hashable = None, weight: float | None = None
    ) -> None:
        """Count a checked row, labelled or not. A row without `group` is one of its own.

        weight: one over the probability with which the row was drawn to be labelled; None where all had the same.
        Raises InputError where it is not a finite number above 0.
        """
        self.rows += 1
        self.total += score
        if label is None:
            return
        if weight is not None and not (math.isfinite(weight) and weight > 0):
            raise InputError(
                f"label weight {weight}",
                expected="one over the probability with which the row was drawn, a number above 0",
                remedy="keep the field as `groundwire sample` wrote it",
            )
        self.labels += 1
        self.unfaithful += label
        self.weighted += weight is not None
        times = 1.0 if weight is None else weight
        sums = self._groups.setdefault(("row", self.labels) if group is None else ("group", group), [0.0, 0.0, 0.0])
        for i, value in enumerate((times, times * label, times * score)):
            sums[i] += value

    def rate(self) -> Rate:
        """The corrected rate. Raises InputError where labels are too few, too alike, or only partly weighted."""
        self._check()
        mean = self.total / self.rows
        sums = np.array(list(self._groups.values()))
        value, error, power = _estimate(sums, mean)
        only, only_error, _ = _estimate(sums, mean, power=0.0)
        return Rate(
            min(1.0, max(0.0, value)),
            *_interval(value, error, len(sums)),
            self.labels,
            len(sums),
            power,
            _interval(only, only_error, len(sums)),
        )

    def _check(self) -> None:
        kinds = min(self.unfaithful, self.labels - self.unfaithful)
        needs = [
            (self.labels, LEAST_LABELS, "labelled rows that were checked"),
            (len(self._groups), LEAST_GROUPS, "groups of labelled rows"),
            (kinds, LEAST_OF_EACH, "labels of the rarer kind"),
        ]
        for number, least, what in needs:
            if number < least:
                raise InputError(
                    f"{number} {what}",
                    expected=f"at least {least}",
                    remedy="label more rows; `groundwire sample` picks them",
                )
        if self.weighted not in (0, self.labels):
            raise InputError(
                f"{self.weighted} of {self.labels} labelled rows have a label_weight",
                expected="all of them, or none",
                remedy="do not mix rows that `groundwire sample` picked with rows labelled for other reasons",
            )


def check_sources(evidence: Mapping[str, Evidence]) -> None:
    """Raise InputError where labels are of some sources only, so that they say nothing of the rows of the others."""
    labels = sum(source.labels for source in evidence.values())
    rows = sum(source.rows for source in evidence.values())
    for name, source in evidence.items():
        if not source.labels and source.rows and (1 - source.rows / rows) ** labels < _CHANCE:
            raise InputError(
                f"no label of {name!r:.60}, which has {source.rows} of {rows} rows",
                expected="labels of a random sample of all rows",
                remedy="label rows of every source; `groundwire sample` picks them",
            )


def _estimate(
    sums: Float[np.ndarray, "groups 3"], mean: float, *, power: float | None = None
) -> tuple[float, float, float]:
    """Rate, standard error and power. sums: of weight, weight * label and weight * score, over each group's rows."""
    weight = sums[:, 0].sum()
    label, score = sums[:, 1].sum() / weight, sums[:, 2].sum() / weight
    labels, scores = (sums[:, 1] - label * sums[:, 0]) / weight, (sums[:, 2] - score * sums[:, 0]) / weight
    if power is None:
        spread = float(scores @ scores)
        power = max(0.0, float(labels @ scores) / spread) if spread > 0 else 0.0
    rest = labels - power * scores
    groups = len(sums)
    error = math.sqrt(groups / (groups - 2) * float(rest @ rest))
    return float(label + power * (mean - score)), error, power


def _interval(value: float, error: float, groups: int) -> tuple[float, float]:
    half = _student(groups - 2) * error
    return max(0.0, value - half), min(1.0, value + half)


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t, by its expansion around the normal's (Abramowitz and Stegun 1964, 26.7.5)."""
    z = _NORMAL
    terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return z + sum(term / freedom**i for i, term in enumerate(terms, 1))
