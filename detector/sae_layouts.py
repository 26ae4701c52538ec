"""The layouts sparse autoencoders are published in, one reader each, and the choice between them.

Every reader takes the folder, the weights file and the caller's input scale, and returns a Dictionary in float32
whose `hookpoint` is a dotted submodule path. Nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from groundwire.dictionary import Dictionary
from groundwire.errors import DictionaryError
from groundwire.sae_files import decoder_blocks, read_json, read_npz, read_safetensors, read_state_dict, require, take
from groundwire.sae_openmoss import read_llama_scope, read_openmoss
from groundwire.sae_saelens import read_saelens, save_dictionary

__all__ = ["LAYOUTS", "load_dictionary", "save_dictionary"]

Reader = Callable[[Path, Path, float | None], Dictionary]


def load_dictionary(path: str | Path, *, hookpoint: str | None = None, input_scale: float | None = None) -> Dictionary:
    """Read the sparse autoencoder at `path`: a folder, or its weights file, in any layout of `LAYOUTS`.

    hookpoint: dotted submodule path, where the files do not say it or say it wrongly.
    input_scale: factor on the rows, where the dictionary was trained on rescaled rows and its files hold no number.
    Raises DictionaryError on a missing file, an unknown layout, a pickle, an architecture or normalisation that
    cannot be honoured, and weights that disagree in shape or are not finite.
    """
    path = Path(path).absolute()  # names tell the layer; links stay as they are
    if not path.exists():
        raise DictionaryError(
            f"{path} does not exist",
            expected="the folder or weights file of a sparse autoencoder",
            remedy="check the path; nothing is downloaded here",
        )
    folder, weights, read = _layout(path)
    dictionary = read(folder, weights, input_scale)
    return replace(dictionary, hookpoint=hookpoint) if hookpoint else dictionary


def _layout(path: Path) -> tuple[Path, Path, Reader]:
    """Folder, weights file and reader of the first layout whose files are all there."""
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent
    for _, files, read in LAYOUTS:
        found = [sorted(folder.glob(pattern)) for pattern in files]
        if path.is_file():
            found[-1] = [file for file in found[-1] if file == path]
        if not all(found):
            continue
        if len(found[-1]) > 1:
            raise DictionaryError(
                f"{folder} holds {len(found[-1])} weights files: {', '.join(file.name for file in found[-1][:6])}",
                expected="one sparse autoencoder",
                remedy="pass the path of the file itself",
            )
        return folder, found[-1][0], read
    content = ", ".join(sorted(entry.name for entry in folder.iterdir())[:12]) or "nothing"
    raise DictionaryError(
        f"{path} is in no known layout; {folder} holds {content}",
        expected="; ".join(f"{name}: {' and '.join(files)}" for name, files, _ in LAYOUTS),
        remedy="pass the folder that holds both the configuration and the weights of one autoencoder",
    )


def read_sparsify(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """EleutherAI sparsify: TopK after ReLU, decoder bias always subtracted; the folder's name is the hookpoint."""
    config, source = read_json(folder / "cfg.json"), f"sparsify {folder}"
    tensors = read_safetensors(weights_file)
    require(source, "activation", config.get("activation", "topk"), ("topk",))
    for flag in ("transcode", "skip_connection", "signed"):
        require(source, flag, config.get(flag, False), (False, None))
    run = read_json(folder.parent / "config.json") if (folder.parent / "config.json").is_file() else {}
    model = run.get("model") if isinstance(run.get("model"), str) else None
    layer = re.fullmatch(r"(?:layers|h)[._](\d+)", folder.name)
    return Dictionary(
        encoder=take(tensors, "encoder.weight", source),
        encoder_bias=take(tensors, "encoder.bias", source),
        decoder=take(tensors, "W_dec", source),
        decoder_bias=take(tensors, "b_dec", source),
        activation="topk",
        k=int(config.get("k") or 0),
        input_scale=1.0 if input_scale is None else input_scale,
        subtract_decoder_bias=True,
        hookpoint=f"{decoder_blocks(model)}.{layer[1]}" if layer else None,
        model=model,
        source=source,
    )


def read_gemma_scope(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """Gemma Scope `params.npz`: JumpReLU, decoder bias not subtracted; the layer is in the path."""
    source = f"Gemma Scope {weights_file}"
    tensors = read_npz(weights_file)
    layer = re.search(r"(?:^|/)layer_(\d+)(?:/|$)", folder.as_posix())
    other_site = re.search(r"gemma-scope-[^/]*(att|mlp|transcoder)", folder.as_posix())
    return Dictionary(
        encoder=take(tensors, "W_enc", source).T,
        encoder_bias=take(tensors, "b_enc", source),
        decoder=take(tensors, "W_dec", source),
        decoder_bias=take(tensors, "b_dec", source),
        activation="jumprelu",
        threshold=take(tensors, "threshold", source),
        input_scale=1.0 if input_scale is None else input_scale,
        hookpoint=f"model.layers.{layer[1]}" if layer and not other_site else None,
        source=source,
    )


def read_goodfire(folder: Path, weights_file: Path, input_scale: float | None) -> Dictionary:
    """Goodfire `.pt`/`.pth` state dict of two linear layers: ReLU, decoder bias not subtracted; `-l19` is the layer."""
    source = f"Goodfire {weights_file}"
    tensors = read_state_dict(weights_file)
    prefix = "_linear" if "encoder_linear.weight" in tensors else ""  # other R1 SAEs name the layers without it
    layer = re.search(r"[-_]l(\d+)(?=[-_.]|$)", weights_file.name)
    return Dictionary(
        encoder=take(tensors, f"encoder{prefix}.weight", source),
        encoder_bias=take(tensors, f"encoder{prefix}.bias", source),
        decoder=take(tensors, f"decoder{prefix}.weight", source).T,
        decoder_bias=take(tensors, f"decoder{prefix}.bias", source),
        activation="relu",
        input_scale=1.0 if input_scale is None else input_scale,
        hookpoint=f"model.layers.{layer[1]}" if layer else None,
        source=source,
    )


# name, the files that tell it (the weights last), reader; the first whose files are all there is taken.
LAYOUTS: tuple[tuple[str, tuple[str, ...], Reader], ...] = (
    ("SAELens", ("cfg.json", "sae_weights.safetensors"), read_saelens),
    ("sparsify", ("cfg.json", "sae.safetensors"), read_sparsify),
    ("Llama Scope", ("hyperparams.json", "checkpoints/final.safetensors"), read_llama_scope),
    ("OpenMOSS", ("config.json", "sae_weights.safetensors"), read_openmoss),
    ("Gemma Scope", ("params.npz",), read_gemma_scope),
    ("Goodfire", ("*.pt*",), read_goodfire),
)
