"""SAELens' layout: by hand against its formulas, and against the library's own `encode` where installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from groundwire.errors import DictionaryError
from groundwire.sae import Dictionary, load_dictionary
from groundwire.sae_saelens import save_dictionary
from tests.detector.published import (
    LATENTS,
    WIDTH,
    K,
    keep_largest,
    library,
    saelens,
    same,
    some,
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


def test_saelens_standard(tmp_path, w, rows):
    found = load_dictionary(saelens(tmp_path, some(w, "W_enc", "b_enc", "W_dec", "b_dec"), architecture="standard"))
    latents = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).clamp(min=0)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])
    assert (found.hookpoint, found.model) == ("model.layers.18", "meta-llama/Llama-3.1-8B")


def test_saelens_jumprelu_without_bias_subtraction(tmp_path, w, rows):
    weights = some(w, "W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    found = load_dictionary(saelens(tmp_path, weights, architecture="jumprelu", apply_b_dec_to_input=False))
    pre = rows @ w["W_enc"] + w["b_enc"]
    latents = pre * (pre > w["threshold"])
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize("rescale", [False, True])
def test_saelens_topk(tmp_path, w, rows, rescale):
    weights = some(w, "W_enc", "b_enc", "W_dec", "b_dec")
    config = {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": rescale}
    found = load_dictionary(saelens(tmp_path, weights, **config))
    norm = w["W_dec"].norm(dim=1) if rescale else torch.ones(LATENTS)
    latents = keep_largest(((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]) * norm, K)
    same(found, rows, latents, (latents / norm) @ w["W_dec"] + w["b_dec"])


def test_saelens_batchtopk_checkpoint_uses_its_global_threshold(tmp_path, w, rows):
    weights = {**some(w, "W_enc", "b_enc", "W_dec", "b_dec"), "topk_threshold": torch.tensor(1.5)}
    found = load_dictionary(saelens(tmp_path, weights, architecture="batchtopk", k=K))
    pre = (rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    latents = pre * (pre > 1.5)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])


def test_saelens_batchtopk_without_threshold_is_refused(tmp_path, w):
    weights = some(w, "W_enc", "b_enc", "W_dec", "b_dec")
    with pytest.raises(DictionaryError, match="what shares the batch"):
        load_dictionary(saelens(tmp_path, weights, architecture="batchtopk", k=K))


def test_saelens_gated(tmp_path, w, rows):
    weights = some(w, "W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
    found = load_dictionary(saelens(tmp_path, weights, architecture="gated"))
    x = rows - w["b_dec"]
    gate = x @ w["W_enc"] + w["b_gate"] > 0
    latents = gate * (x @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).clamp(min=0)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])


def test_saelens_before_version_6(tmp_path, w, rows):
    config = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "model_name": "gpt2-small",
        "hook_name": "blocks.8.hook_resid_pre",
        "normalize_activations": "none",
    }
    weights = {**some(w, "W_enc", "b_enc", "W_dec", "b_dec"), "scaling_factor": torch.ones(LATENTS)}
    found = load_dictionary(write(tmp_path, "cfg.json", config, "sae_weights.safetensors", weights))
    latents = keep_largest((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"], K)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])
    assert found.hookpoint == "transformer.h.7"


@pytest.mark.parametrize("given_by", ["argument", "checkpoint"])
def test_saelens_input_scale(tmp_path, w, rows, given_by):
    weights = some(w, "W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    config = {"architecture": "jumprelu", "normalize_activations": "expected_average_only_in"}
    folder = saelens(tmp_path, weights, **config)
    if given_by == "checkpoint":
        (folder / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    found = load_dictionary(folder, input_scale=0.25 if given_by == "argument" else None)
    pre = (rows * 0.25 - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    latents = pre * (pre > w["threshold"])
    same(found, rows, latents, (latents @ w["W_dec"] + w["b_dec"]) / 0.25)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"normalize_activations": "expected_average_only_in"}, "input_scale"),
        ({"normalize_activations": "layer_norm"}, "layer_norm"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
        ({"architecture": "matching_pursuit"}, "matching_pursuit"),
        ({"architecture": "standard", "activation_fn": "tanh-relu"}, "tanh-relu"),
        ({"architecture": "gated"}, "b_gate"),
        ({"architecture": "jumprelu"}, "without thresholds"),
    ],
)
def test_saelens_what_cannot_be_honoured_is_named(tmp_path, w, change, says):
    weights = some(w, "W_enc", "b_enc", "W_dec", "b_dec")
    with pytest.raises(DictionaryError, match=says):
        load_dictionary(saelens(tmp_path, weights, **{"architecture": "standard", **change}))


def test_saelens_scaling_factor_per_latent_is_refused(tmp_path, w):
    weights = {**some(w, "W_enc", "b_enc", "W_dec", "b_dec"), "scaling_factor": torch.full((LATENTS,), 1.2)}
    with pytest.raises(DictionaryError, match="scaling_factor"):
        load_dictionary(saelens(tmp_path, weights, architecture="standard"))


def written_by_saelens(folder: Path, architecture: str, w: dict[str, torch.Tensor], **config: Any) -> Any:
    lib = library("sae_lens")
    classes = {"standard": "StandardSAE", "jumprelu": "JumpReLUSAE", "topk": "TopKSAE", "gated": "GatedSAE"}
    name = classes[architecture]
    sae = getattr(lib, name)(getattr(lib, f"{name}Config")(d_in=WIDTH, d_sae=LATENTS, **config))
    with torch.no_grad():
        for parameter, value in sae.named_parameters():
            value.copy_(w[parameter])
    sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    sae.save_model(folder)
    return sae


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("standard", {}),
        ("jumprelu", {}),
        ("topk", {"k": K}),
        ("topk", {"k": K, "rescale_acts_by_decoder_norm": True}),
        ("gated", {}),
    ],
)
def test_saelens_library(tmp_path, w, rows, architecture, config, subtract):
    sae = written_by_saelens(tmp_path, architecture, w, apply_b_dec_to_input=subtract, **config)
    found = load_dictionary(tmp_path)
    same(found, rows, sae.encode(rows).detach(), sae(rows).detach())
    assert found.hookpoint == "model.layers.3"


def test_saelens_library_batchtopk(tmp_path, w, rows):
    lib = library("sae_lens")
    sae = lib.BatchTopKTrainingSAE(lib.BatchTopKTrainingSAEConfig(d_in=WIDTH, d_sae=LATENTS, k=K))
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(sae, name).copy_(w[name])
        sae.topk_threshold.fill_(1.25)
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "inference")
    reference = lib.SAE.load_from_disk(tmp_path / "inference")
    for folder in ("checkpoint", "inference"):
        same(load_dictionary(tmp_path / folder), rows, reference.encode(rows).detach(), reference(rows).detach())


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu", "gated"])
def test_saelens_library_reads_what_we_save(tmp_path, w, rows, activation):
    lib = library("sae_lens")
    dictionary = Dictionary(
        encoder=w["W_enc"].T,
        encoder_bias=w["b_enc"],
        decoder=w["W_dec"],
        decoder_bias=w["b_dec"],
        activation=activation,
        k=K if activation == "topk" else None,
        threshold=w["threshold"] if activation in ("jumprelu", "gated") else None,
        input_scale=0.5,
        subtract_decoder_bias=True,
        hookpoint="model.layers.18",
        model="tiny",
    )
    save_dictionary(dictionary, tmp_path)
    sae = lib.SAE.load_from_disk(tmp_path)
    same(dictionary, rows, sae.encode(rows).detach(), sae(rows).detach())
    assert sae.cfg.metadata.hook_name == "model.layers.18"
