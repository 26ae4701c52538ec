"""The RAGLens recipe on the same rows: max-pooled latents, 1,000 chosen by mutual information, an EBM on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from baselines.protocol import Fit, Scores

from groundwire.sae import Dictionary
from groundwire.training.data import LabelledExample
from groundwire.training.detector import fit_recipe
from groundwire.training.features import Features
from groundwire.training.rows import TokenRows

LATENTS = 1000


def fitter(dictionary: Dictionary) -> Fit:
    """`fit` with `dictionary`'s pre-activations as features; about a minute and a half a fit."""

    def fit(examples: Sequence[LabelledExample], rows: TokenRows) -> Scores:
        maximum = pre_activations(dictionary, rows)
        features = Features(maximum, np.zeros(maximum.shape, int), np.diff(rows.offsets))
        labels = np.array([e.label for e in examples])
        chosen, fitted = fit_recipe(features, labels, np.arange(len(labels)), n_latents=LATENTS, seed=0, n_jobs=1)
        return lambda other: fitted.logits(pre_activations(dictionary, other)[:, chosen])

    return fit


def pre_activations(dictionary: Dictionary, rows: TokenRows) -> np.ndarray:
    """Each latent's greatest pre-activation over an answer's tokens `[answers, latents]`, 0 for one without tokens."""
    encoder = dictionary.select(range(dictionary.n_latents), activation="pre")
    found = np.zeros((len(rows), dictionary.n_latents), np.float32)
    for i in range(len(rows)):
        own = torch.from_numpy(rows.rows[rows.offsets[i] : rows.offsets[i + 1]]).float()
        if len(own):
            found[i] = encoder(own).max(0).values.numpy()
    return found
