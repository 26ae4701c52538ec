"""Sparse autoencoders: load a published one, encode with it, and measure whether it fits the rows it is given.

dictionary = load_dictionary("layer_20/width_16k/average_l0_71")
check_fit(dictionary, rows)                      # DictionaryError: wrong layer, scale, model ...
encoder = dictionary.select([412, 9031])         # the only columns that scoring needs
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.dictionary import Dictionary, SparseEncoder
from groundwire.errors import DictionaryError
from groundwire.sae_layouts import load_dictionary, save_dictionary

__all__ = [
    "Dictionary",
    "Reconstruction",
    "SparseEncoder",
    "check_fit",
    "load_dictionary",
    "reconstruction",
    "save_dictionary",
]

MAX_FVU = 0.5  # published SAEs reach 0.05 to 0.35; a wrong layer, scale or model is near or above 1
_CHUNK = 256  # rows encoded at once: [rows, n_latents] of a large dictionary is the memory peak
_SINK = 10.0  # a row this many times the median norm is an attention sink, often left out of SAE training


@dataclass(frozen=True)
class Reconstruction:
    """How well a dictionary rebuilds rows.

    fvu: fraction of variance unexplained, `sum((row' - row)^2) / sum((row - mean)^2)`; 0 is perfect.
    l0: latents that fire per row, mean. dead: share of the latents that fired on none of these rows.
    """

    fvu: float
    l0: float
    dead: float


def reconstruction(dictionary: Dictionary, rows: Float[Tensor, "rows d"]) -> Reconstruction:
    """Measure `dictionary` on `rows` `[n, d_model]` captured at its hookpoint.

    Raises DictionaryError on rows of another width, on fewer than two rows, on rows that are all alike or not finite.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise DictionaryError(
            f"rows of shape {tuple(rows.shape)}", expected="[n, d_model] with n of 2 or more (some hundreds are better)"
        )
    mean = torch.stack([part.double().sum(0) for part in rows.split(_CHUNK)]).sum(0) / len(rows)
    error, variance, fired = 0.0, 0.0, torch.zeros(dictionary.n_latents, dtype=torch.long)
    for part in rows.split(_CHUNK):
        latents = dictionary.encode(part)
        error += float((dictionary.decode(latents).double() - part.double()).square().sum())
        variance += float((part.double() - mean).square().sum())
        fired += (latents > 0).sum(0).cpu()
    if not (math.isfinite(variance) and variance > 0):
        raise DictionaryError(
            "rows that are all alike, or hold NaN",
            expected="activations of ordinary text",
            remedy="capture the rows of a few hundred tokens of text",
        )
    return Reconstruction(error / variance, float(fired.sum()) / len(rows), float((fired == 0).float().mean()))


def check_fit(dictionary: Dictionary, rows: Float[Tensor, "rows d"], *, max_fvu: float = MAX_FVU) -> Reconstruction:
    """Measure `dictionary` on `rows` and refuse a bad fit.

    Raises DictionaryError where more than `max_fvu` of the variance stays unexplained; the message names the
    likely cause: obvious misreadings (decoder bias, input scale, attention sinks) are tried and the one that fits told.
    """
    found = reconstruction(dictionary, rows)
    if found.fvu <= max_fvu:
        return found
    raise DictionaryError(
        f"{dictionary.source} does not rebuild the rows: fraction of variance unexplained {found.fvu:.3g}, "
        f"{found.l0:.1f} latents per row, {found.dead:.0%} of them silent",
        expected=f"at most {max_fvu:g} unexplained",
        remedy=_likely_cause(dictionary, rows, found, max_fvu),
    )


def _likely_cause(dictionary: Dictionary, rows: Tensor, found: Reconstruction, max_fvu: float) -> str:
    fits = {advice: reconstruction(*other).fvu for advice, other in _alternatives(dictionary, rows).items()}
    best = min(fits, key=lambda advice: fits[advice], default=None)
    if best is not None and fits[best] <= max_fvu:
        return f"{best}: that leaves {fits[best]:.3g} unexplained"
    where = f"it was trained at {dictionary.hookpoint or 'an unnamed hookpoint'} of {dictionary.model or 'some model'}"
    if found.l0 == 0:
        return f"nothing fires, so the rows are of another scale or another model; {where}"
    return f"the rows are likely of another layer or model, or the dictionary was trained on normalised rows; {where}"


def _alternatives(dictionary: Dictionary, rows: Tensor) -> dict[str, tuple[Dictionary, Tensor]]:
    """Readings of the same files that would explain a bad fit, by the advice to give where one fits."""
    flipped = replace(dictionary, subtract_decoder_bias=not dictionary.subtract_decoder_bias)
    verb = "do not subtract" if dictionary.subtract_decoder_bias else "subtract"
    options = {f"{verb} the decoder bias (subtract_decoder_bias={flipped.subtract_decoder_bias})": (flipped, rows)}
    norms = rows.float().norm(dim=-1)
    ordinary = norms <= _SINK * norms.median()
    if 2 <= int(ordinary.sum()) < len(rows):
        sinks = len(rows) - int(ordinary.sum())
        options[f"leave out {sinks} rows of outsize norm (first token, attention sinks)"] = (dictionary, rows[ordinary])
    for scale in {dictionary.d_model**0.5 / float(norms[ordinary].mean()), 1.0} - {dictionary.input_scale}:
        for reading in (dictionary, flipped):
            bias = "" if reading is dictionary else f" and {verb} the decoder bias"
            advice = f"scale the rows (input_scale={scale:.4g}){bias}"
            options[advice] = (replace(reading, input_scale=scale), rows)
    return options
