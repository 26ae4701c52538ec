"""A probe of every token's residual row: ridge logistic regression on standardised columns, no dictionary.

An answer's score is the mean log-odds of its best window, as in the second detector (`training.head.pooled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from baselines.protocol import Fit, Scores

from groundwire.training.data import LabelledExample
from groundwire.training.head import pooled, token_targets
from groundwire.training.logistic import ridge_logistic
from groundwire.training.rows import TokenRows

PENALTY, WINDOW = 3000.0, 8  # the best of those tried (results/search.json)


def fitter(tokenizer: Any) -> Fit:
    """`fit` for answers whose spans are labelled."""

    def fit(examples: Sequence[LabelledExample], rows: TokenRows) -> Scores:
        x = torch.from_numpy(rows.rows).float()
        mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
        target = torch.from_numpy(token_targets(tokenizer, examples, rows).unfaithful).float()
        beta, intercept = ridge_logistic((x - mean) / deviation, target, penalty=PENALTY)

        def scores(other: TokenRows) -> Any:
            direction = beta / deviation
            sums = torch.from_numpy(other.rows).float() @ direction + (intercept - mean @ direction)
            return pooled(other, sums.double().numpy(), WINDOW)

        return scores

    return fit
