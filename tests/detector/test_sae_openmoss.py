"""Llama Scope and today's OpenMOSS layout: by hand, through SAELens' reader, and against llamascopium."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from groundwire.errors import DictionaryError
from groundwire.sae import load_dictionary
from groundwire.sae_openmoss import read_openmoss
from tests.detector.published import (
    LATENTS,
    WIDTH,
    K,
    library,
    rebuilt_by_saelens,
    same,
    tiny_rows,
    tiny_weights,
    write,
)


@pytest.fixture
def rows() -> torch.Tensor:
    return tiny_rows()


@pytest.fixture
def w() -> dict[str, torch.Tensor]:
    return tiny_weights()


HYPERPARAMS = {  # the fields of a published file, with our sizes
    "dtype": "torch.bfloat16",
    "hook_point_in": "blocks.15.hook_resid_post",
    "hook_point_out": "blocks.15.hook_resid_post",
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "d_model": WIDTH,
    "d_sae": LATENTS,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.75,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 9.5, "out": 9.5},
    "sparsity_include_decoder_norm": True,
    "use_glu_encoder": False,
    "top_k": 50,
}


def llama_scope(folder: Path, w: dict[str, torch.Tensor], **config: Any) -> Path:
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"]}
    weights |= {"decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"]}
    return write(folder, "hyperparams.json", HYPERPARAMS | config, "checkpoints/final.safetensors", weights)


@pytest.mark.parametrize("act_fn", ["jumprelu", "topk"])  # TopK with a threshold is run as JumpReLU
@pytest.mark.parametrize("given", ["folder", "file"])
def test_llama_scope_is_what_the_library_did_for_inference(tmp_path, w, rows, act_fn, given):
    found = load_dictionary(
        llama_scope(tmp_path, w, act_fn=act_fn) / ("" if given == "folder" else "checkpoints/final.safetensors")
    )
    scale, norm = math.sqrt(WIDTH) / 9.5, w["W_dec"].norm(dim=1)
    # standardize_parameters_of_dataset_norm, then transform_to_unit_decoder_norm, then JumpReLU, on raw rows
    pre = (rows @ w["W_enc"] + w["b_enc"] / scale) * norm
    raw = pre * (pre > 0.75)
    same(found, rows, raw * scale, (raw / norm) @ w["W_dec"] + w["b_dec"] / scale)
    assert found.hookpoint == "model.layers.15"


def test_llama_scope_through_saelens_own_reader(tmp_path, w, rows, monkeypatch):
    """SAELens leaves the decoder norm out of the threshold, so the comparison is with unit norms."""
    loaders = library("sae_lens.loading.pretrained_sae_loaders")
    w["W_dec"] = w["W_dec"] / w["W_dec"].norm(dim=1, keepdim=True)
    folder = llama_scope(tmp_path, w)
    download = {"hyperparams.json": folder / "hyperparams.json"}
    monkeypatch.setattr(
        loaders,
        "hf_hub_download",
        lambda repo=None, name="", **_: download.get(Path(name).name, folder / "checkpoints" / "final.safetensors"),
    )
    config, state, _ = loaders.llama_scope_sae_huggingface_loader("repo", "folder", cfg_overrides={"dtype": "float32"})
    sae = rebuilt_by_saelens("jumprelu", config, state)
    sae.fold_activation_norm_scaling_factor(math.sqrt(WIDTH) / 9.5)
    same(load_dictionary(folder), rows, sae.encode(rows).detach(), sae(rows).detach())


@pytest.mark.parametrize(
    "change",
    [
        {"norm_activation": "token-wise"},
        {"act_fn": "batchtopk"},
        {"use_glu_encoder": True},
        {"hook_point_out": "blocks.15.hook_mlp_out"},
        {"dataset_average_activation_norm": None},
    ],
)
def test_llama_scope_what_cannot_be_honoured_is_named(tmp_path, w, change):
    with pytest.raises(DictionaryError, match=next(iter(change))):
        load_dictionary(llama_scope(tmp_path, w, **change))


def test_openmoss_r1_names(tmp_path, w, rows):
    config = {"d_model": WIDTH, "expansion_factor": 2.5, "act_fn": "jumprelu", "norm_activation": "dataset-wise"}
    config |= {"hook_point_in": "blocks.15.hook_resid_post", "hook_point_out": "blocks.15.hook_resid_post"}
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T}
    weights |= {"decoder.bias": w["b_dec"], "log_jumprelu_threshold": w["threshold"].log()}
    weights |= {"dataset_average_activation_norm.blocks.15.hook_resid_post": torch.tensor(9.5)}
    write(tmp_path, "config.json", config, "sae_weights.safetensors", weights)
    found = read_openmoss(tmp_path, tmp_path / "sae_weights.safetensors", None)
    scale, norm = math.sqrt(WIDTH) / 9.5, w["W_dec"].norm(dim=1)
    pre = (rows * scale @ w["W_enc"] + w["b_enc"]) * norm
    latents = pre * (pre > w["threshold"])
    same(found, rows, latents, (latents / norm @ w["W_dec"] + w["b_dec"]) / scale)


@pytest.mark.parametrize("act_fn", ["relu", "jumprelu", "topk"])
def test_openmoss_library(tmp_path, w, rows, act_fn):
    lib = library("llamascopium.models.sae")
    hook = "blocks.3.hook_resid_post"
    config = lib.SAEConfig(
        hook_point_in=hook,
        hook_point_out=hook,
        d_model=WIDTH,
        expansion_factor=LATENTS / WIDTH,
        act_fn=act_fn,
        top_k=K,
        dtype=torch.float32,
        device="cpu",
    )
    sae = lib.SparseAutoEncoder(config)
    with torch.no_grad():
        for ours, theirs in {"W_enc": "W_E", "b_enc": "b_E", "W_dec": "W_D", "b_dec": "b_D"}.items():
            getattr(sae, theirs).copy_(w[ours])
        if act_fn == "jumprelu":
            sae.activation_function.log_jumprelu_threshold.copy_(w["threshold"].log())
    sae.set_dataset_average_activation_norm({hook: 9.5})
    sae.save_checkpoint(tmp_path / "sae_weights.safetensors")
    config.save_hyperparameters(tmp_path)
    scale = math.sqrt(WIDTH) / 9.5
    with torch.no_grad():
        latents = sae.encode(rows * scale)
        same(load_dictionary(tmp_path), rows, latents * sae.decoder_norm(), sae.decode(latents) / scale)
    assert load_dictionary(tmp_path).hookpoint == "model.layers.3"
