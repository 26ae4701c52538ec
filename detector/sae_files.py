"""What the readers of published autoencoders share: safe file access, tensors by name, hook names as dotted paths."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from groundwire.errors import DictionaryError

# Where decoder layers live, by a word in the model's name; every other supported family keeps them in model.layers.
_BLOCKS = {
    "gpt2": "transformer.h",
    "distilgpt2": "transformer.h",
    "pythia": "gpt_neox.layers",
    "neox": "gpt_neox.layers",
}
_EMBEDDINGS = {"transformer.h": "transformer.wte", "gpt_neox.layers": "gpt_neox.embed_in"}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises DictionaryError where it is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not isinstance(value, dict):
        raise unreadable(path, TypeError(f"a JSON object was expected, not {type(value).__name__}"))
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises DictionaryError where it is damaged."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, error) from error


def read_npz(path: Path) -> dict[str, Tensor]:
    """All arrays of a NumPy archive; pickled objects are refused. Raises DictionaryError where it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The state dict `torch.save` wrote, tensors only. Raises DictionaryError where other objects are pickled in."""
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise unreadable(path, error) from error
    return value if isinstance(value, Mapping) else {}


def unreadable(path: Path, error: Exception) -> DictionaryError:
    return DictionaryError(
        f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
        expected="an undamaged file of tensors or JSON; pickled objects are never loaded",
        remedy="download it again, or save its state dict as safetensors",
    )


def take(tensors: Mapping[str, Tensor], name: str, source: str) -> Tensor:
    """The tensor `name`, or DictionaryError listing what there is."""
    value = tensors.get(name)
    if not isinstance(value, Tensor):
        raise DictionaryError(
            f"{source} has no tensor {name!r}, but: {', '.join(map(str, sorted(tensors, key=str)[:12])) or 'nothing'}",
            expected="the weights of one sparse autoencoder in the layout its folder has",
            remedy="check that the file is complete and not a transcoder or a crosscoder",
        )
    return value


def require(source: str, name: str, value: object, allowed: tuple[object, ...]) -> None:
    """DictionaryError where a setting has a value that cannot be honoured."""
    if value not in allowed:
        raise DictionaryError(
            f"{source} has {name}={value!r}",
            expected=f"{name} of {', '.join(map(repr, allowed))}",
            remedy="use another dictionary: read in any other way, its activations would be wrong",
        )


def unit_decoder(encoder: Tensor, bias: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Move each decoder row's norm into its latent: same reconstruction, activations in units of length."""
    norms = decoder.float().norm(dim=-1)
    return encoder.float() * norms[:, None], bias.float() * norms, decoder.float() / norms[:, None]


def dotted_path(hook_name: str | None, model: str | None = None) -> str | None:
    """A TransformerLens hook name as the dotted path whose *output* it is; other names are returned as they are.

    `blocks.18.hook_resid_post` is `model.layers.18`; `hook_resid_pre` of layer 18 is the output of layer 17.
    None where no submodule's output is meant (attention's `hook_z`, `hook_resid_mid`).
    """
    if not hook_name or not (hook_name.startswith("blocks.") or hook_name == "hook_embed"):
        return hook_name or None
    blocks = decoder_blocks(model)
    embeddings = _EMBEDDINGS.get(blocks, "model.embed_tokens")
    if hook_name == "hook_embed":
        return embeddings
    _, layer, hook = hook_name.split(".", 2)
    if hook == "hook_resid_pre":
        return f"{blocks}.{int(layer) - 1}" if int(layer) else embeddings
    return f"{blocks}.{layer}" if hook == "hook_resid_post" else None


def decoder_blocks(model: str | None) -> str:
    """Dotted path of the list of decoder layers in `model`, a model's name or id."""
    name = (model or "").lower()
    return next((path for word, path in _BLOCKS.items() if word in name), "model.layers")
