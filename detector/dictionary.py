"""A sparse autoencoder as plain tensors, and the few columns of it that scoring needs.

One form for every published kind, with s the input scale and b_dec the decoder bias (subtracted or not):

    pre    = encoder @ (s * row - b_dec) + encoder_bias
    latent = relu(pre) where pre > threshold (all of them for ReLU), or the k largest relu(pre) of a row (TopK)
    row'   = (latent @ decoder + b_dec) / s

A gated SAE is this with threshold b_mag - exp(r_mag) * b_gate (Rajamanoharan et al. 2024, arXiv 2404.16014, app. E).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from groundwire.errors import DictionaryError

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]
THRESHOLDED = ("batchtopk", "jumprelu", "gated")


@dataclass(frozen=True)
class SparseEncoder:
    """Chosen latents as one affine map of the rows: decoder bias and input scale are folded in.

    weight: `[n, d_model]` float32. bias: `[n]`. threshold: `[n]`, below or at which a latent is zero, or None.
    rectify: negative values become zero (activations), or not (pre-activations).
    """

    weight: Float[Tensor, "n d"]
    bias: Float[Tensor, " n"]
    threshold: Float[Tensor, " n"] | None = None
    rectify: bool = False

    def __call__(self, rows: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """`[..., d_model]` of any float type to `[..., n]` float32. Raises DictionaryError on rows of another width."""
        _check_width(rows, self.weight.shape[1])
        values = rows.float() @ self.weight.T + self.bias
        if self.threshold is not None:
            values = torch.where(values <= self.threshold, 0.0, values)  # this way round NaN stays NaN
        return values.relu() if self.rectify else values


@dataclass(frozen=True)
class Dictionary:
    """A sparse autoencoder, float32 (other float types are converted). Equations: see the module.

    encoder, decoder: `[n_latents, d_model]`. encoder_bias: `[n_latents]`. decoder_bias: `[d_model]`, in scaled units.
    k: latents per row (topk). threshold: `[n_latents]` (batchtopk, jumprelu, gated).
    hookpoint: dotted submodule path, model: the language model's id, source: layout and path it was read from;
    metadata: what else the file said (training tokens, data set).
    Raises DictionaryError where shapes disagree, weights are not finite, or the activation lacks its k or threshold.
    """

    encoder: Tensor  # shapes are checked below: files are input, and their faults deserve a better message
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    activation: Activation
    k: int | None = None
    threshold: Tensor | None = None
    input_scale: float = 1.0
    subtract_decoder_bias: bool = False
    hookpoint: str | None = None
    model: str | None = None
    source: str = "memory"
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                object.__setattr__(self, f.name, value.detach().float().contiguous())
        self._check_shapes()
        self._check_values()

    @property
    def n_latents(self) -> int:
        return self.encoder.shape[0]

    @property
    def d_model(self) -> int:
        return self.encoder.shape[1]

    def pre_activations(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows n"]:
        """Encoder outputs before activation function and threshold, of all latents."""
        _check_width(rows, self.d_model)
        scaled = rows.float() * self.input_scale
        if self.subtract_decoder_bias:
            scaled = scaled - self.decoder_bias
        return scaled @ self.encoder.T + self.encoder_bias

    def encode(self, rows: Float[Tensor, "rows d"]) -> Float[Tensor, "rows n"]:
        """Latent activations, zero where a latent does not fire."""
        pre = self.pre_activations(rows)
        if self.activation == "topk":
            values, chosen = pre.topk(self.k or 0, dim=-1, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, chosen, values.relu())
        if self.threshold is not None:
            pre = torch.where(pre <= self.threshold, 0.0, pre)  # this way round NaN stays NaN
        return pre.relu()

    def decode(self, latents: Float[Tensor, "rows n"]) -> Float[Tensor, "rows d"]:
        """The rows these activations stand for, in the rows' own scale."""
        return (latents @ self.decoder + self.decoder_bias) / self.input_scale

    def select(self, feature_ids: Sequence[int], activation: Literal["pre", "post"] = "pre") -> SparseEncoder:
        """The latents `feature_ids` alone, in that order, as an encoder that needs no other latent.

        Raises DictionaryError on an id the dictionary does not have, and on "post" for TopK, where a latent's
        activation depends on all others.
        """
        ids = torch.as_tensor(feature_ids, dtype=torch.long)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.n_latents:
            raise DictionaryError(
                f"feature ids from {int(ids.min())} to {int(ids.max())}",
                expected=f"0 to {self.n_latents - 1}, the latents of {self.source}",
                remedy="use the dictionary that the features were chosen from",
            )
        weight, bias = self.encoder[ids], self.encoder_bias[ids]
        if self.subtract_decoder_bias:
            bias = bias - weight @ self.decoder_bias
        weight = weight * self.input_scale
        if activation == "pre":
            return SparseEncoder(weight, bias)
        if self.activation == "topk":
            raise DictionaryError(
                "activations of single latents were asked of a TopK dictionary",
                expected="an activation that needs no other latent: ReLU, JumpReLU, BatchTopK or gated",
                remedy='use the pre-activations: select(ids, activation="pre")',
            )
        return SparseEncoder(weight, bias, None if self.threshold is None else self.threshold[ids], rectify=True)

    def _check_shapes(self) -> None:
        n, d = self.encoder.shape if self.encoder.ndim == 2 else (-1, -1)
        wanted = {"encoder": (n, d), "encoder_bias": (n,), "decoder": (n, d), "decoder_bias": (d,), "threshold": (n,)}
        for name, shape in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise DictionaryError(
                    f"{name} of {self.source} has shape {tuple(value.shape)}",
                    expected=f"{shape}, as the encoder is [n_latents, d_model] = {tuple(self.encoder.shape)}",
                    remedy="check that all tensors come from one file and the layout is what the folder says",
                )

    def _check_values(self) -> None:
        for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold"):
            value = getattr(self, name)
            if value is not None and not bool(value.isfinite().all()):
                raise DictionaryError(
                    f"{name} of {self.source} holds NaN or infinite numbers",
                    expected="finite weights",
                    remedy="download the file again, or save it in bfloat16 or float32 rather than float16",
                )
        if not 0 < self.input_scale < float("inf"):
            raise DictionaryError(f"input scale {self.input_scale}", expected="a finite number above 0")
        if self.activation == "topk" and not 0 < (self.k or 0) <= self.n_latents:
            raise DictionaryError(f"TopK with k = {self.k}", expected=f"1 to {self.n_latents}, the number of latents")
        if self.activation in THRESHOLDED and self.threshold is None:
            raise DictionaryError(
                f"a {self.activation} dictionary without thresholds: {self.source}",
                expected="one threshold per latent",
                remedy="export it for inference; BatchTopK without its threshold depends on what shares the batch",
            )


def _check_width(rows: Tensor, d_model: int) -> None:
    if rows.shape[-1] != d_model:
        raise DictionaryError(
            f"rows of width {rows.shape[-1]}",
            expected=f"{d_model}, the width this dictionary was trained on",
            remedy="use a dictionary of this model, or the model of this dictionary",
        )
