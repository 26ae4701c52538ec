"""Names for latents: the tokens they fire on most and the tokens their decoder direction promotes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from groundwire.sae import Dictionary

TOP_ROWS = 24
EXAMPLES = 4
CONTEXT_TOKENS = (10, 3)  # before and after
PROMOTED = 5
_CHUNK = 8192


def label_latents(
    dictionary: Dictionary, feature_ids: Sequence[int], shards: Sequence[Path], model: nn.Module, tokenizer: Any
) -> dict[int, dict[str, Any]]:
    """For each latent: `label`, `top_tokens`, `examples` (token in context, activation) and `promotes`.

    shards: activations of unlabelled text, as `training.activations` wrote them; their strongest rows give the tokens.
        Without any, `top_tokens` and `examples` are empty and the label says only what is promoted.
    """
    values, where = _strongest_rows(dictionary, feature_ids, shards)
    # Sequence numbers start anew in no shard, so equal numbers next to each other mean one text.
    tokens, sequences = (_column(shards, name) for name in ("tokens", "sequences"))
    promoted = _promoted(dictionary, feature_ids, model, tokenizer)
    found = {}
    for i, feature_id in enumerate(feature_ids):
        names = list(dict.fromkeys(tokenizer.decode([t]) for t in tokens[where[i]].tolist()))
        examples = [
            {"activation": round(value, 2), **_in_context(tokens, sequences, at, tokenizer)}
            for value, at in zip(values[i, :EXAMPLES].tolist(), where[i, :EXAMPLES].tolist(), strict=True)
        ]
        found[int(feature_id)] = {
            "label": _label(names, promoted[i]),
            "top_tokens": names[:8],
            "promotes": promoted[i],
            "examples": examples,
        }
    return found


def _strongest_rows(
    dictionary: Dictionary, feature_ids: Sequence[int], shards: Sequence[Path]
) -> tuple[Float[Tensor, "features top"], Int[Tensor, "features top"]]:
    """Pre-activations and row numbers over all shards, strongest first; fewer than `TOP_ROWS` where rows are fewer."""
    encoder = dictionary.select(feature_ids, activation="pre")
    best = torch.full((len(feature_ids), TOP_ROWS), -torch.inf)
    where = torch.zeros(len(feature_ids), TOP_ROWS, dtype=torch.long)
    offset = 0
    for path in shards:
        for chunk in load_file(path)["rows"].split(_CHUNK):
            candidates = torch.cat([best, encoder(chunk.float()).T], dim=1)
            numbers = torch.arange(offset, offset + len(chunk)).expand(len(feature_ids), -1)
            best, index = candidates.topk(TOP_ROWS, dim=1)
            where = torch.cat([where, numbers], dim=1).gather(1, index)
            offset += len(chunk)
    return best[:, :offset], where[:, :offset]


def _column(shards: Sequence[Path], name: str) -> Int[Tensor, " rows"]:
    parts = [torch.zeros(0, dtype=torch.int32)]
    for path in shards:
        with safe_open(path, "pt") as file:
            parts.append(file.get_tensor(name))
    return torch.cat(parts)


def _promoted(dictionary: Dictionary, feature_ids: Sequence[int], model: Any, tokenizer: Any) -> list[list[str]]:
    """Tokens whose logits a latent's decoder direction raises most, read through the unembedding (logit lens)."""
    unembedding = model.get_output_embeddings().weight.detach().float().cpu()
    centred = unembedding - unembedding.mean(0)
    directions = dictionary.decoder[torch.as_tensor(list(feature_ids))]
    top = (directions @ centred.T).topk(PROMOTED, dim=1).indices
    return [[tokenizer.decode([t]) for t in row] for row in top.tolist()]


def _in_context(tokens: Tensor, sequences: Tensor, at: int, tokenizer: Any) -> dict[str, str]:
    before, after = CONTEXT_TOKENS
    window = range(max(0, at - before), min(len(tokens), at + after + 1))
    same = [i for i in window if sequences[i] == sequences[at]]
    left = tokenizer.decode([int(tokens[i]) for i in same if i < at])
    right = tokenizer.decode([int(tokens[i]) for i in same if i > at])
    return {"before": left, "token": tokenizer.decode([int(tokens[at])]), "after": right}


def _label(names: Sequence[str], promoted: Sequence[str]) -> str:
    fires, raises = (", ".join(f"“{_visible(name)}”" for name in some) for some in (names[:3], promoted[:2]))
    return f"{fires} → {raises}" if fires else f"→ {raises}"


def _visible(token: str) -> str:
    return token.strip().replace("\n", "⏎") or token.replace("\n", "⏎").replace(" ", "␣") or "∅"
