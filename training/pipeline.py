"""The second detector, from labelled answers and rows to something that scores: head, response model, calibration.

    groups -> four fifths: token head
              one fifth:   response model, scale and shift, thresholds, token scale, span rule, distances

Nothing of a held-out group reaches the head, so what is calibrated are logits of answers the head never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from groundwire.sae import Dictionary
from groundwire.training.calibrate import Calibrated, calibrate
from groundwire.training.data import LabelledExample, folds
from groundwire.training.head import Head, HeadOptions, fit_head, pooled
from groundwire.training.response import GROUNDING, ResponseModel, fit_response, measure
from groundwire.training.rows import TokenRows

KEPT_BACK = 5  # one part in so many of the groups


@dataclass(frozen=True)
class Fitted:
    """A detector before it is packed: `held_out` are the examples (by number) that calibrated it."""

    head: Head
    response: ResponseModel
    calibrated: Calibrated
    held_out: np.ndarray
    options: HeadOptions = field(default_factory=HeadOptions)

    def logits(
        self, rows: TokenRows, measured: Sequence[dict[str, float]]
    ) -> tuple[Float[np.ndarray, " answers"], Float[np.ndarray, " tokens"]]:
        """Calibrated log-odds of answers, and the sums of their tokens' contributions."""
        sums = self.head.token_sums(rows.rows)
        raw = self.response.logits(pooled(rows, sums, self.options.window), measured)
        return self.calibrated.scale * raw + self.calibrated.shift, sums


def fit(
    dictionary: Dictionary,
    examples: Sequence[LabelledExample],
    rows: TokenRows,
    tokenizer: Any,
    options: HeadOptions | None = None,
    *,
    grounding: Sequence[str] = GROUNDING,
    seed: int = 0,
    done: Callable[[], object] = lambda: None,
) -> Fitted:
    """Fit head and calibration on disjoint groups. Raises InputError where labels occur in too few groups."""
    options = options or HeadOptions()
    groups = [e.group for e in examples]
    # Stratified by data set and label, so that both parts hold some of each.
    kinds = np.unique([f"{e.dataset} {e.label}" for e in examples], return_inverse=True)[1]
    fitted_on, held_out = split(groups, kinds, [e.label for e in examples], seed)
    head = fit_head(
        dictionary, [examples[i] for i in fitted_on], rows.take(fitted_on), tokenizer, options, seed=seed, done=done
    )
    held = [examples[i] for i in held_out]
    held_rows = rows.take(held_out)
    windows = pooled(held_rows, head.token_sums(held_rows.rows), options.window)
    measured = measure(held)
    labels, sets = np.array([e.label for e in held]), np.array([e.dataset for e in held])
    response = fit_response(windows, measured, labels, sets, grounding)
    calibrated = calibrate(response.logits(windows, measured), labels, np.array([e.group for e in held]), sets)
    return Fitted(head, response, calibrated, held_out, options)


def split(groups: Sequence[str], kinds: np.ndarray, labels: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows to fit on and of those kept back; no group is in both."""
    from sklearn.model_selection import StratifiedGroupKFold

    folds(groups, labels, 2, seed)  # refuses what cannot be split, and says why
    splitter = StratifiedGroupKFold(KEPT_BACK, shuffle=True, random_state=seed)
    fitted_on, held_out = next(iter(splitter.split(np.zeros(len(kinds)), kinds, np.asarray(groups))))
    return fitted_on, held_out
