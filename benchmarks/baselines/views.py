"""Data sets as the splits of `transfer.py` saw them: which scores belong together, and what they assume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundwire.calibration import prevalence_shift
from groundwire.errors import InputError
from groundwire.training.data import LabelledExample

PARTS = 5


@dataclass(frozen=True)
class View:
    """A data set as some splits saw it. `splits`: file names without `scores-` and `.npz`."""

    name: str
    left_out: str
    splits: tuple[str, ...]


FIRST = (  # one view of each set, the one a difference is taken of
    View("ragtruth-qa", "a fifth of its groups", tuple(f"ragtruth-qa-fold-{k}" for k in range(PARTS))),
    View("refchecker", "refchecker, dolly", ("without-dolly+refchecker",)),
    View("dolly", "refchecker, dolly", ("without-dolly+refchecker",)),
    View("summedits", "summedits", ("without-summedits",)),
    View("xsumfaith", "xsumfaith, frank", ("without-xsumfaith+frank",)),
    View("frank", "xsumfaith, frank", ("without-xsumfaith+frank",)),
)
DOMAINS = View("summedits", "a fifth of its domains", tuple(f"summedits-domains-{k}" for k in range(PARTS)))
VIEWS = (*FIRST, DOMAINS, View("ragtruth-qa", "ragtruth-qa", ("without-ragtruth-qa",)))


@dataclass(frozen=True)
class Seen:
    """Scores of a view's rows. `numbers`: rows of the data set; `reference`: prevalence that a row's logit assumes."""

    view: View
    examples: list[LabelledExample]
    numbers: np.ndarray
    logits: np.ndarray
    reference: np.ndarray
    sums: list[np.ndarray]

    @property
    def labels(self) -> np.ndarray:
        return np.array([e.label for e in self.examples])

    @property
    def groups(self) -> np.ndarray:
        return np.array([e.group for e in self.examples])

    @property
    def generators(self) -> np.ndarray:
        return np.array([e.generator for e in self.examples])

    def head(self) -> dict[str, Any]:
        return {"data set": self.view.name, "left out": self.view.left_out}

    def shifted(self) -> np.ndarray:
        """Logits at the share of unfaithful answers that these rows have."""
        own = float(self.labels.mean())
        return self.logits + np.array([prevalence_shift(float(r), own) for r in self.reference])


def see(view: View, examples: Sequence[LabelledExample], offsets: np.ndarray, work: Path) -> tuple[Seen | None, list]:
    """The view from the splits that are there, and the names of those that are not."""
    numbers, logits, reference, sums, missing = [], [], [], [], []
    for split in view.splits:
        path = work / f"scores-{split}.npz"
        if not path.exists():
            missing.append(split)
            continue
        with np.load(path) as found:
            own = found[f"{view.name}.rows"]
            numbers.append(own)
            logits.append(found[view.name])
            reference.append(np.full(len(own), float(found["prevalence"])))
            lengths = np.diff(offsets)[own]
            if lengths.sum() != len(found[f"{view.name}.tokens"]):
                raise InputError(f"{path.name} does not fit the rows of {view.name}", remedy="run transfer.py anew")
            sums += np.split(found[f"{view.name}.tokens"], lengths.cumsum()[:-1])
    if not numbers:
        return None, missing
    rows = np.concatenate(numbers)
    chosen = [examples[i] for i in rows]
    return Seen(view, chosen, rows, np.concatenate(logits), np.concatenate(reference), sums), missing
