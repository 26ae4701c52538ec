"""sparsify, Gemma Scope and Goodfire, by hand and against the real libraries; and what no reader takes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundwire.errors import DictionaryError
from groundwire.sae_files import dotted_path
from groundwire.sae_layouts import load_dictionary
from tests.detector.published import (
    LATENTS,
    WIDTH,
    K,
    keep_largest,
    library,
    rebuilt_by_saelens,
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


# --- sparsify --------------------------------------------------------------------------------------------------------


def sparsify(folder: Path, w: dict[str, torch.Tensor], **config: Any) -> Path:
    cfg = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": LATENTS, "k": K, "d_in": WIDTH, **config}
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "W_dec": w["W_dec"], "b_dec": w["b_dec"]}
    return write(folder, "cfg.json", cfg, "sae.safetensors", weights)


def test_sparsify(tmp_path, w, rows):
    (tmp_path / "config.json").write_text('{"model": "HuggingFaceTB/SmolLM2-135M"}')
    found = load_dictionary(sparsify(tmp_path / "layers.18", w))
    latents = keep_largest((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"], K)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])
    assert (found.hookpoint, found.model) == ("model.layers.18", "HuggingFaceTB/SmolLM2-135M")


@pytest.mark.parametrize(
    "change", [{"activation": "groupmax"}, {"transcode": True}, {"skip_connection": True}, {"signed": True}]
)
def test_sparsify_what_cannot_be_honoured_is_named(tmp_path, w, change):
    with pytest.raises(DictionaryError, match=next(iter(change))):
        load_dictionary(sparsify(tmp_path / "layers.1", w, **change))


def test_sparsify_library(tmp_path, w, rows):
    lib = library("sparsify")
    coder = lib.SparseCoder(WIDTH, lib.SparseCoderConfig(num_latents=LATENTS, k=K))
    with torch.no_grad():
        coder.encoder.weight.copy_(w["W_enc"].T)
        coder.encoder.bias.copy_(w["b_enc"])
        coder.W_dec.copy_(w["W_dec"])
        coder.b_dec.copy_(w["b_dec"])
        coder.save_to_disk(tmp_path / "layers.3")
        top = coder.encode(rows)
        latents = torch.zeros(len(rows), LATENTS).scatter(-1, top.top_indices, top.top_acts)
        same(load_dictionary(tmp_path / "layers.3"), rows, latents, coder.decode(top.top_acts, top.top_indices))


# --- Gemma Scope -----------------------------------------------------------------------------------------------------


def gemma_scope(folder: Path, w: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
    np.savez(folder / "params.npz", **{name: w[name].numpy() for name in names})
    return folder


@pytest.mark.parametrize("given", ["folder", "file"])
def test_gemma_scope(tmp_path, w, rows, given):
    folder = gemma_scope(tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71", w)
    found = load_dictionary(folder if given == "folder" else folder / "params.npz")
    pre = rows @ w["W_enc"] + w["b_enc"]
    latents = pre * (pre > w["threshold"])
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])
    assert found.hookpoint == "model.layers.20"


def test_gemma_scope_of_another_site_names_no_residual_hookpoint(tmp_path, w):
    assert load_dictionary(gemma_scope(tmp_path / "gemma-scope-2b-pt-att" / "layer_3", w)).hookpoint is None
    assert load_dictionary(tmp_path / "gemma-scope-2b-pt-att" / "layer_3", hookpoint="a.b").hookpoint == "a.b"


def test_gemma_scope_with_pickled_objects_is_refused(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DictionaryError, match="never loaded"):
        load_dictionary(tmp_path)


def test_gemma_scope_through_saelens_own_reader(tmp_path, w, rows, monkeypatch):
    loaders = library("sae_lens.loading.pretrained_sae_loaders")
    folder = gemma_scope(tmp_path / "layer_20" / "width_16k" / "average_l0_71", w)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda **_: folder / "params.npz")
    config, state, _ = loaders.gemma_2_sae_huggingface_loader(
        "google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"
    )
    sae = rebuilt_by_saelens("jumprelu", config, state)
    same(load_dictionary(folder), rows, sae.encode(rows).detach(), sae(rows).detach())
    assert dotted_path(config["hook_name"], config["model_name"]) == load_dictionary(folder).hookpoint


# --- Goodfire --------------------------------------------------------------------------------------------------------


def goodfire(file: Path, w: dict[str, torch.Tensor], suffix: str = "_linear") -> Path:
    state = {f"encoder{suffix}.weight": w["W_enc"].T, f"encoder{suffix}.bias": w["b_enc"]}
    torch.save(state | {f"decoder{suffix}.weight": w["W_dec"].T, f"decoder{suffix}.bias": w["b_dec"]}, file)
    return file


@pytest.mark.parametrize("suffix", ["_linear", ""])
@pytest.mark.parametrize("name", ["Llama-3.1-8B-Instruct-SAE-l19.pth", "Llama-3.1-8B-Instruct-SAE-l19.pt"])
@pytest.mark.parametrize("given", ["folder", "file"])
def test_goodfire(tmp_path, w, rows, suffix, name, given):
    file = goodfire(tmp_path / name, w, suffix)
    found = load_dictionary(file if given == "file" else tmp_path)
    latents = (rows @ w["W_enc"] + w["b_enc"]).clamp(min=0)
    same(found, rows, latents, latents @ w["W_dec"] + w["b_dec"])
    assert found.hookpoint == "model.layers.19"


def test_goodfire_through_saelens_own_reader(tmp_path, w, rows, monkeypatch):
    loaders = library("sae_lens.loading.pretrained_sae_loaders")
    file = goodfire(tmp_path / "Llama-3.1-8B-Instruct-SAE-l19.pth", w)
    monkeypatch.setattr(loaders, "hf_hub_download", lambda **_: file)
    config, state, _ = loaders.get_goodfire_huggingface_loader("Goodfire/Llama-3.1-8B-Instruct-SAE-l19", file.name)
    sae = rebuilt_by_saelens("standard", config, state)
    same(load_dictionary(file), rows, sae.encode(rows).detach(), sae(rows).detach())
    assert dotted_path(config["hook_name"], config["model_name"]) == load_dictionary(file).hookpoint


class Surprise:
    """What a hostile file may hold: unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_a_pickle_is_never_run(tmp_path):
    torch.save({"encoder_linear.weight": Surprise()}, tmp_path / "sae-l3.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Surprise(), protocol=2))
    for name in ("sae-l3.pt", "plain.pt"):
        with pytest.raises(DictionaryError, match="never loaded"):
            load_dictionary(tmp_path / name)


def test_several_weights_files_need_a_choice(tmp_path, w):
    for layer in (1, 2):
        goodfire(tmp_path / f"SAE-l{layer}.pt", w)
    with pytest.raises(DictionaryError, match=r"SAE-l1\.pt, SAE-l2\.pt"):
        load_dictionary(tmp_path)
    assert load_dictionary(tmp_path / "SAE-l2.pt").hookpoint == "model.layers.2"


# --- what no reader takes --------------------------------------------------------------------------------------------


def test_a_missing_path_is_told(tmp_path):
    with pytest.raises(DictionaryError, match="does not exist"):
        load_dictionary(tmp_path / "nowhere")


@pytest.mark.parametrize("found", [[], ["cfg.json"], ["model.bin", "readme.md"]])
def test_an_unknown_layout_is_told_with_those_that_are_known(tmp_path, found):
    for name in found:
        (tmp_path / name).write_text("{}")
    with pytest.raises(DictionaryError, match="no known layout") as error:
        load_dictionary(tmp_path)
    for word in [*found, "SAELens", "sparsify", "Gemma Scope", "Llama Scope", "Goodfire", "params.npz"]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("cfg.json", b"{"), ("cfg.json", b"[]"), ("cfg.json", b"\xff"), ("sae_weights.safetensors", b"half a file")],
)
def test_damaged_files_are_told(tmp_path, w, name, content):
    folder = saelens(tmp_path, some(w, "W_enc", "b_enc", "W_dec", "b_dec"), architecture="standard")
    (folder / name).write_bytes(content)
    with pytest.raises(DictionaryError, match=rf"{name} cannot be read"):
        load_dictionary(folder)


def test_an_interrupted_npz_is_told(tmp_path, w):
    folder = gemma_scope(tmp_path / "layer_1", w)
    (folder / "params.npz").write_bytes((folder / "params.npz").read_bytes()[:300])
    with pytest.raises(DictionaryError, match="cannot be read"):
        load_dictionary(folder)


def test_missing_tensors_are_told_with_those_that_are_there(tmp_path, w):
    folder = saelens(tmp_path, some(w, "W_enc", "b_enc", "b_dec"), architecture="standard")
    with pytest.raises(DictionaryError, match=r"W_dec[\s\S]*W_enc, b_dec, b_enc"):
        load_dictionary(folder)


def test_nan_weights_are_refused(tmp_path, w):
    w["W_dec"][2, 3] = float("nan")
    with pytest.raises(DictionaryError, match=r"decoder of SAELens .* NaN"):
        load_dictionary(saelens(tmp_path, some(w, "W_enc", "b_enc", "W_dec", "b_dec"), architecture="standard"))


@pytest.mark.parametrize(
    ("name", "model", "path"),
    [
        ("blocks.18.hook_resid_post", "meta-llama/Llama-3.1-8B", "model.layers.18"),
        ("blocks.18.hook_resid_pre", None, "model.layers.17"),
        ("blocks.0.hook_resid_pre", None, "model.embed_tokens"),
        ("blocks.0.hook_resid_pre", "gpt2-small", "transformer.wte"),
        ("hook_embed", "gemma-2-2b", "model.embed_tokens"),
        ("blocks.3.hook_resid_post", "EleutherAI/pythia-70m-deduped", "gpt_neox.layers.3"),
        ("model.layers.18", None, "model.layers.18"),
        ("blocks.3.attn.hook_z", None, None),
        ("blocks.3.hook_resid_mid", None, None),
        (None, None, None),
    ],
)
def test_hook_names_become_dotted_paths(name, model, path):
    assert dotted_path(name, model) == path
