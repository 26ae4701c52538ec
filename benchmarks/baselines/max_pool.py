"""Logistic regression on an answer's residual rows, pooled by maximum: no tokens, no dictionary."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from baselines.protocol import Scores, maxima
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from groundwire.training.data import LabelledExample
from groundwire.training.rows import TokenRows

C = 0.01


def fit(examples: Sequence[LabelledExample], rows: TokenRows) -> Scores:
    """Standardised columns, ridge of strength 1 / C."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000))
    model.fit(maxima(rows), np.array([e.label for e in examples]))
    return lambda other: model.decision_function(maxima(other))
