"""OpenMOSS's layouts: Llama Scope (Language-Model-SAEs, 2024), and what the library has written since 2025.

The rows are scaled to a mean norm of sqrt(d_model) over the data set. Where sparsity was measured with the decoder's
norm, that norm is moved into the latents, as the library does for inference: same reconstruction, and a latent's
activation is the length it adds, in scaled rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundwire.dictionary import Dictionary
from groundwire.errors import DictionaryError
from groundwire.sae_files import dotted_path, read_json, read_safetensors, require, take, unit_decoder


def read_llama_scope(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """`hyperparams.json` and `checkpoints/final.safetensors`; one threshold for all latents.

    The library folds the input scale into the biases before it applies `jump_relu_threshold`, so in units of the
    scaled rows the threshold is `jump_relu_threshold * input_scale` (SAELens reads it so too).
    """
    config, source = read_json(folder / "hyperparams.json"), f"Llama Scope {folder}"
    norms = config.get("dataset_average_activation_norm")
    tensors = _renamed(read_safetensors(weights_file))
    norm = norms.get("in") if isinstance(norms, Mapping) else None
    scale = input_scale or _input_scale(config, len(take(tensors, "W_E", source)), norm, source)
    threshold = float(config.get("jump_relu_threshold") or 0) * scale
    if threshold > 0 and config.get("act_fn") == "topk":
        config["act_fn"] = "jumprelu"  # the library's own conversion for inference
    thresholds = torch.full_like(take(tensors, "b_E", source), threshold, dtype=torch.float32)
    return _dictionary(config, tensors, thresholds, scale, source)


def read_openmoss(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """`config.json` and `sae_weights.safetensors` (llamascopium, Llama Scope R1); log thresholds in scaled units."""
    config, source = read_json(folder / "config.json"), f"OpenMOSS {folder}"
    tensors = _renamed(read_safetensors(weights_file))
    norm = tensors.get(f"dataset_average_activation_norm.{config.get('hook_point_in')}")
    width = len(take(tensors, "W_E", source))
    scale = input_scale or _input_scale(config, width, None if norm is None else float(norm), source)
    logarithm = tensors.get("activation_function.log_jumprelu_threshold", tensors.get("log_jumprelu_threshold"))
    thresholds = None if logarithm is None else logarithm.float().exp()
    return _dictionary(config, tensors, thresholds, scale, source)


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Linear layers under the names and orientation of today's library: W_E, b_E, W_D, b_D."""
    names = {"encoder.weight": "W_E", "encoder.bias": "b_E", "decoder.weight": "W_D", "decoder.bias": "b_D"}
    return {names.get(k, k): v.T if k in names and v.ndim == 2 else v for k, v in tensors.items()}


def _input_scale(config: Mapping[str, Any], d_model: int, norm: float | None, source: str) -> float:
    wanted = config.get("norm_activation", "dataset-wise")
    require(source, "norm_activation", wanted, ("dataset-wise", "inference"))
    if wanted == "inference":
        return 1.0
    if not norm or not math.isfinite(norm):
        raise DictionaryError(
            f"{source} normalises rows by the data set's norm, and its files do not hold that norm",
            expected="dataset_average_activation_norm",
            remedy="pass load_dictionary(..., input_scale=...), sqrt(d_model) / mean row norm at its hookpoint",
        )
    return math.sqrt(d_model) / norm


def _dictionary(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], thresholds: Tensor | None, scale: float, source: str
) -> Dictionary:
    kind, hook = str(config.get("act_fn", "relu")).lower(), config.get("hook_point_in")
    require(source, "act_fn", kind, ("relu", "topk", "jumprelu"))
    require(source, "use_glu_encoder", config.get("use_glu_encoder", False), (False,))
    require(source, "hook_point_out", config.get("hook_point_out", hook), (hook,))  # else a transcoder
    encoder, bias, decoder = (take(tensors, name, source) for name in ("W_E", "b_E", "W_D"))
    encoder = encoder.T
    if config.get("sparsity_include_decoder_norm", True):
        encoder, bias, decoder = unit_decoder(encoder, bias, decoder)
    return Dictionary(
        encoder=encoder,
        encoder_bias=bias,
        decoder=decoder,
        decoder_bias=tensors.get("b_D", torch.zeros(encoder.shape[1])),
        activation=kind,  # type: ignore[arg-type]
        k=config.get("top_k") if kind == "topk" else None,
        threshold=thresholds if kind == "jumprelu" else None,
        input_scale=scale,
        subtract_decoder_bias=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
        hookpoint=dotted_path(hook),
        source=source,
    )
