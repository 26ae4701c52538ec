"""SAELens' own layout, read and written: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from groundwire.dictionary import THRESHOLDED, Dictionary
from groundwire.errors import DictionaryError
from groundwire.sae_files import dotted_path, read_json, read_safetensors, require, take, unit_decoder

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu", "gated")


def read_saelens(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """Both the flat configuration before 6.0 and the nested one; training checkpoints too.

    The decoder bias is subtracted where `apply_b_dec_to_input` says so; an old file without it means yes.
    """
    config, source = read_json(folder / "cfg.json"), f"SAELens {folder}"
    said, tensors = {**(config.get("metadata") or {}), **config}, read_safetensors(weights_file)
    require(source, "reshape_activations", said.get("reshape_activations"), ("none", None))
    scale = _input_scale(said, folder, input_scale, source)
    kind = _architecture(said, source)
    encoder, decoder = take(tensors, "W_enc", source).T, take(tensors, "W_dec", source)
    threshold = _threshold(kind, tensors, len(encoder))
    if kind == "gated":
        encoder, bias, threshold = _ungate(encoder, tensors, source)
    else:
        bias = take(tensors, "b_enc", source)
    _refuse_latent_scale(tensors, source)
    if said.get("rescale_acts_by_decoder_norm"):
        encoder, bias, decoder = unit_decoder(encoder, bias, decoder)
    return Dictionary(
        encoder=encoder,
        encoder_bias=bias,
        decoder=decoder,
        decoder_bias=take(tensors, "b_dec", source),
        activation="relu" if kind == "standard" else kind,
        k=(said.get("k") or (said.get("activation_fn_kwargs") or {}).get("k")) if kind == "topk" else None,
        threshold=threshold,
        input_scale=scale,
        subtract_decoder_bias=bool(said.get("apply_b_dec_to_input", True)),
        hookpoint=dotted_path(said.get("hook_name") or said.get("hook_point"), said.get("model_name")),
        model=said.get("model_name"),
        source=source,
        metadata=config.get("metadata") or {},
    )


def _architecture(said: Mapping[str, Any], source: str) -> Any:
    kind = said.get("architecture") or "standard"
    require(source, "architecture", kind, ARCHITECTURES)
    if kind != "standard":
        return kind
    function = said.get("activation_fn_str") or said.get("activation_fn") or "relu"  # before 6.0
    require(source, "activation_fn", function, ("relu", "topk"))
    return "topk" if function == "topk" else "standard"


def _input_scale(said: Mapping[str, Any], folder: Path, given: float | None, source: str) -> float:
    """The factor on the rows. `expected_average_only_in` has one for the whole data set, not always in the files."""
    wanted = said.get("normalize_activations")
    if wanted in ("none", None, False):
        return 1.0 if given is None else given
    require(source, "normalize_activations", wanted, ("none", "expected_average_only_in", True))
    scaler = folder / "activation_scaler.json"  # training checkpoints keep the measured factor here
    factor = read_json(scaler).get("scaling_factor") if given is None and scaler.is_file() else given
    if factor is None:
        raise DictionaryError(
            f"{source} was trained with normalize_activations={wanted!r}, and its files do not hold the factor",
            expected="the factor on the rows, sqrt(d_model) / mean row norm at its hookpoint",
            remedy="pass load_dictionary(..., input_scale=...)",
        )
    return float(factor)


def _threshold(kind: str, tensors: Mapping[str, Tensor], n_latents: int) -> Tensor | None:
    if kind == "batchtopk" and "topk_threshold" in tensors:  # a training checkpoint: one threshold for all
        return tensors["topk_threshold"].reshape(1).expand(n_latents)
    return tensors.get("threshold") if kind in THRESHOLDED else None


def _ungate(encoder: Tensor, tensors: Mapping[str, Tensor], source: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, bias and threshold of the one affine map that a gated encoder is (see `groundwire.dictionary`)."""
    gate, magnitude, r = (take(tensors, name, source).float() for name in ("b_gate", "b_mag", "r_mag"))
    return encoder.float() * r.exp()[:, None], magnitude, magnitude - r.exp() * gate


def _refuse_latent_scale(tensors: Mapping[str, Tensor], source: str) -> None:
    """Old files may scale each latent after the encoder; ones were written for a while and mean nothing."""
    if "scaling_factor" in tensors and not bool((tensors["scaling_factor"] == 1).all()):
        raise DictionaryError(
            f"{source} has a scaling_factor per latent (finetuning_scaling_factor)",
            expected="no such factor, or ones",
            remedy="multiply the rows of W_dec by it and remove it from the file",
        )


def save_dictionary(dictionary: Dictionary, folder: str | Path) -> None:
    """Write `cfg.json` and `sae_weights.safetensors` as SAELens reads them; what was there is overwritten.

    The input scale, which that layout has no place for, is folded into the weights; kinds with thresholds become
    `jumprelu`, to which they are equal. `cfg["metadata"]` holds `hook_name` (our dotted path), `model_name` and
    `dictionary.metadata`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    scale = dictionary.input_scale
    weights = {
        "W_enc": dictionary.encoder.T * scale,
        "b_enc": dictionary.encoder_bias,
        "W_dec": dictionary.decoder / scale,
        "b_dec": dictionary.decoder_bias / scale,
    }
    architecture = {"relu": "standard", "topk": "topk"}.get(dictionary.activation, "jumprelu")
    if dictionary.threshold is not None:
        weights["threshold"] = dictionary.threshold
    config = {
        "architecture": architecture,
        "d_in": dictionary.d_model,
        "d_sae": dictionary.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.subtract_decoder_bias,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **({"k": dictionary.k, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        "metadata": {
            "sae_lens_version": "6.0.0",  # of the layout; readers take a file without it for the older one
            **dictionary.metadata,
            "hook_name": dictionary.hookpoint,
            "model_name": dictionary.model,
        },
    }
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
