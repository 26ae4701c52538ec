"""Tiny autoencoders as they are published, the real libraries where installed, and how readings are compared.

The libraries: `pip install --no-deps sae-lens eai-sparsify llamascopium`, then what they miss at import.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from groundwire.sae import Dictionary

WIDTH, LATENTS, K = 8, 20, 4

NESTED = {
    "d_in": WIDTH,
    "d_sae": LATENTS,
    "dtype": "float32",
    "device": "cpu",
    "apply_b_dec_to_input": True,
    "normalize_activations": "none",
    "reshape_activations": "none",
    "metadata": {
        "sae_lens_version": "6.54.12",
        "model_name": "meta-llama/Llama-3.1-8B",
        "hook_name": "blocks.18.hook_resid_post",
    },
}


def library(name: str) -> ModuleType:
    """The module `name`, or a skip. What a library warns of at import is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def tiny_rows() -> torch.Tensor:
    return torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(4)) * 3


def tiny_weights() -> dict[str, torch.Tensor]:
    """Weights in SAELens' names and orientation, all of them used: no zero biases, no unit norms."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "W_enc": (WIDTH, LATENTS),
        "b_enc": (LATENTS,),
        "W_dec": (LATENTS, WIDTH),
        "b_dec": (WIDTH,),
        "threshold": (LATENTS,),
        "b_gate": (LATENTS,),
        "b_mag": (LATENTS,),
        "r_mag": (LATENTS,),
    }
    weights = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    return {**weights, "threshold": weights["threshold"].abs()}


def some(weights: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: weights[name].clone() for name in names}


def write(folder: Path, config_name: str, config: dict[str, Any], weights_name: str, weights: dict[str, Any]) -> Path:
    (folder / weights_name).parent.mkdir(parents=True, exist_ok=True)
    (folder / config_name).write_text(json.dumps(config))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / weights_name)
    return folder


def keep_largest(pre: torch.Tensor, k: int) -> torch.Tensor:
    """TopK by sorting, one row at a time."""
    out = torch.zeros_like(pre)
    for row, into in zip(pre, out, strict=True):
        for i in row.argsort(descending=True)[:k]:
            into[i] = max(float(row[i]), 0.0)
    return out


def same(dictionary: Dictionary, rows: torch.Tensor, latents: torch.Tensor, rebuilt: torch.Tensor) -> None:
    assert (latents > 0).any(), "the test needs latents that fire"
    assert (latents == 0).any(), "the test needs latents that do not"
    torch.testing.assert_close(dictionary.encode(rows), latents)
    torch.testing.assert_close(dictionary.decode(dictionary.encode(rows)), rebuilt)


def saelens(folder: Path, weights: dict[str, torch.Tensor], **config: Any) -> Path:
    return write(folder, "cfg.json", {**NESTED, **config}, "sae_weights.safetensors", weights)


def rebuilt_by_saelens(architecture: str, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
    lib = library("sae_lens")
    name = {"jumprelu": "JumpReLUSAE", "standard": "StandardSAE"}[architecture]
    sae = getattr(lib, name)(
        getattr(lib, f"{name}Config")(d_in=WIDTH, d_sae=LATENTS, apply_b_dec_to_input=config["apply_b_dec_to_input"])
    )
    sae.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return sae
