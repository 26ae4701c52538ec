"""Which rows to label: strata of the score, how many of each, and the chance each row had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from groundwire.errors import InputError

STRATA = 8
LEAST = 2  # rows of a stratum: one alone says nothing of how alike they are
_FLOOR = 0.1  # assumed share of errors where scores see none: confident scores may be wrong


@dataclass(frozen=True)
class Stratum:
    """Rows of similar score: from `low` to `high`, how many there are, and how many of them were drawn."""

    low: float
    high: float
    rows: int
    drawn: int

    @property
    def probability(self) -> float:
        return self.drawn / self.rows


@dataclass(frozen=True)
class Draw:
    """Rows drawn, ascending, the stratum of each, and all strata."""

    rows: Int[np.ndarray, " drawn"]
    member: Int[np.ndarray, " drawn"]
    strata: tuple[Stratum, ...]


def draw(scores: Float[np.ndarray, " rows"], number: int, *, seed: int = 0) -> Draw:
    """`number` of the rows, at random within strata of about equally many rows by score; all rows where fewer.

    Half are shared out by the strata's sizes, half by sizes times sqrt(p (1 - p)), p a stratum's mean score (Neyman
    1934): where the detector is in doubt a label says most, and no row goes without a chance.
    Raises InputError where there are no rows, or `number` is below two for each stratum.
    """
    if not len(scores):
        raise InputError("no row was checked", expected="checked rows to draw from", remedy="score some answers first")
    cuts = np.unique(np.quantile(scores, np.arange(1, STRATA) / STRATA, method="inverted_cdf"))
    place = np.searchsorted(cuts, scores, side="left")
    members = [rows for i in range(len(cuts) + 1) if len(rows := np.flatnonzero(place == i))]
    if number < LEAST * len(members):
        raise InputError(
            f"{number} rows to label, of {len(members)} strata",
            expected=f"at least {LEAST * len(members)}",
            remedy="ask for more: a rate needs some hundred labels",
        )
    sizes = np.array([len(rows) for rows in members])
    means = np.array([scores[rows].mean() for rows in members])
    doubt = sizes * np.sqrt(np.maximum(means * (1 - means), _FLOOR * (1 - _FLOOR)))
    wanted = _shared_out((sizes / sizes.sum() + doubt / doubt.sum()) / 2, sizes, min(number, len(scores)))
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(rows, size, replace=False) for rows, size in zip(members, wanted, strict=True)]
    drawn, member = np.concatenate(chosen), np.repeat(np.arange(len(members)), wanted)
    order = np.argsort(drawn)
    strata = tuple(
        Stratum(float(scores[rows].min()), float(scores[rows].max()), len(rows), int(size))
        for rows, size in zip(members, wanted, strict=True)
    )
    return Draw(drawn[order], member[order], strata)


def _shared_out(
    shares: Float[np.ndarray, " strata"], sizes: Int[np.ndarray, " strata"], number: int
) -> Int[np.ndarray, " strata"]:
    """`number` in whole parts near `shares`, at least `LEAST` and at most the size of each stratum."""
    wanted = np.minimum(sizes, LEAST)
    while wanted.sum() < number:
        lacking = np.where(wanted < sizes, shares * number - wanted, -np.inf)
        wanted[int(lacking.argmax())] += 1
    return wanted
