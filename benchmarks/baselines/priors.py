"""Scores that look at no model: length, the generator's own rate, and words that the prompt lacks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from groundwire.training.data import LabelledExample
from groundwire.training.metrics import absent_bigrams, absent_words
from groundwire.training.response import measure


def scores(examples: Sequence[LabelledExample]) -> dict[str, np.ndarray]:
    """As `metrics.priors`, as scores; and soft absent words, the strongest of the detector's grounding terms."""
    labels = np.array([e.label for e in examples])
    generator = np.unique([e.generator for e in examples], return_inverse=True)[1]
    rate = np.bincount(generator, labels) / np.bincount(generator)
    return {
        "length": np.array([float(len(e.response)) for e in examples]),
        "generator": rate[generator],
        "absent words": np.array([float(absent_words(e.prompt, e.response)) for e in examples]),
        "absent bigrams": np.array([float(absent_bigrams(e.prompt, e.response)) for e in examples]),
        "soft absent words": np.array([m["soft_absent_words"] for m in measure(examples)]),
    }
