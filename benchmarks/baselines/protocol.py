"""How every learned baseline is scored: on ragtruth-qa out of fold, elsewhere as fitted on all of ragtruth-qa.

The folds are those of `transfer.py`: groups never straddle a fold, and selection and fit stand inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from groundwire.training.data import LabelledExample, folds
from groundwire.training.rows import TokenRows, join

HOME, FOLDS = "ragtruth-qa", 5
Scores = Callable[[TokenRows], np.ndarray]
Fit = Callable[[Sequence[LabelledExample], TokenRows], Scores]


def read_rows(folder: Path) -> TokenRows:
    """Rows that `training.rows` left in a folder, without the engine that collected them."""
    parts = [load_file(path) for path in sorted(folder.glob("part-*.safetensors"))]
    return join([TokenRows(p["rows"].numpy(), np.r_[0, p["lengths"].numpy().cumsum()]) for p in parts])


def score(fit: Fit, examples: dict[str, list[LabelledExample]], rows: dict[str, TokenRows]) -> dict[str, np.ndarray]:
    """One score per answer of every set, the greater the more likely unfaithful."""
    home = examples[HOME]
    found = {HOME: np.zeros(len(home))}
    for train, test in folds([e.group for e in home], [e.label for e in home], FOLDS, 0):
        found[HOME][test] = fit([home[i] for i in train], rows[HOME].take(train))(rows[HOME].take(test))
    fitted = fit(home, rows[HOME])
    return found | {name: fitted(rows[name]) for name in examples if name != HOME}


def kept(
    work: Path, baseline: str, fit: Fit, examples: dict[str, list[LabelledExample]], rows: dict[str, TokenRows]
) -> dict[str, np.ndarray]:
    """Scores from WORK/BASELINE-NAME.npy; all are made and written where one is missing."""
    paths = {name: work / f"{baseline}-{name}.npy" for name in examples}
    if not all(path.exists() for path in paths.values()):
        for name, scores in score(fit, examples, rows).items():
            np.save(paths[name], scores)
    return {name: np.load(path) for name, path in paths.items()}


def maxima(rows: TokenRows) -> np.ndarray:
    """Greatest value of each column over an answer's tokens `[answers, d]`, 0 for an answer without tokens."""
    found = np.zeros((len(rows), rows.rows.shape[1]), np.float32)
    for i in range(len(rows)):
        own = rows.rows[rows.offsets[i] : rows.offsets[i + 1]]
        if len(own):
            found[i] = own.max(0)
    return found
