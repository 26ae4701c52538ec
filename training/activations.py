"""Streams token sequences through the model to a hookpoint and keeps the rows on disk, in shards.

A shard is one safetensors file: `rows` `[n, d_model]` float16, `tokens` `[n]` int32, `sequences` `[n]` int32 (which
sequence each row came from). Attention-sink positions (the first token, and any row whose norm is more than five times
the median) are left out: their norm is a hundred times the others' and would be all a dictionary learns.
A run that was interrupted continues at the first shard that is missing.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from groundwire.capture import Capture, capture
from groundwire.errors import InputError

SHARD_ROWS = 65_536
WINDOW = 64  # sequences sorted by length together
SINK_NORM = 5.0
BATCH_TOKENS = 4096


def without_sinks(rows: Float[Tensor, "n d"], first: Bool[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Which rows to keep: not the first of its sequence, norm at most `SINK_NORM` times the median."""
    norms = rows.float().norm(dim=-1)
    return ~first & (norms <= SINK_NORM * norms.median())


def collect(
    model: nn.Module,
    hookpoint: str,
    sequences: Iterator[list[int]],
    folder: Path,
    *,
    tokens: int,
    description: dict[str, Any],
) -> list[Path]:
    """Fill `folder` with shards until `tokens` rows are on disk; return the shards' paths in order.

    description: what made the rows (model, text, hookpoint, seed); kept in `source.json`. A folder made from
        something else is refused with InputError rather than mixed, and so is text that gives no row at all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.json"
    shards = list(_present(folder))
    if shards and source.exists() and json.loads(source.read_text()) != description:
        raise InputError(
            f"{folder} holds activations of another model, text or hookpoint",
            expected=json.dumps(description),
            remedy="choose another folder, or delete this one",
        )
    source.write_text(json.dumps(description, indent=1))
    skip = _sequences_done(shards)
    done = sum(map(row_count, shards))
    pending: list[tuple[Tensor, Tensor, Tensor]] = []
    waiting = 0
    device = next(model.parameters()).device
    bar = tqdm(total=tokens, initial=min(done, tokens), unit="tok", unit_scale=True, desc=folder.name, disable=None)
    numbered = itertools.islice(enumerate(sequences), skip, None)
    with capture(model, hookpoint, stop=True) as hook, bar:
        # A shard ends where a window ends, so a later run knows from the last row which sequence comes next.
        while done + waiting < tokens and (window := list(itertools.islice(numbered, WINDOW))):
            for batch in _batches(window):
                for part in _rows_of(hook, model, batch, device):
                    pending.append(part)
                    waiting += len(part[0])
                    bar.update(len(part[0]))
            if waiting >= SHARD_ROWS or done + waiting >= tokens:
                shards.append(_write(folder, len(shards), pending))
                done, waiting, pending = done + waiting, 0, []
    if waiting:
        shards.append(_write(folder, len(shards), pending))
        done += waiting
    if not done:
        raise InputError(
            "the text gave no rows",
            expected="documents of some paragraphs, and finite activations",
            remedy="add documents (one in eight is held out), or use float32 weights",
        )
    if done < tokens:
        tqdm.write(f"the text gave {done:,} rows, {tokens:,} were asked for")
    return shards


def row_count(shard: Path) -> int:
    """Rows of a shard, from its header alone."""
    with safe_open(shard, "pt") as file:
        return file.get_slice("tokens").get_shape()[0]


def load_rows(shards: Sequence[Path]) -> Float[Tensor, "n d"]:
    """The rows of some shards, float32."""
    return torch.cat([load_file(path)["rows"] for path in shards]).float()


def _rows_of(
    hook: Capture, model: nn.Module, batch: list[tuple[int, list[int]]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    ids = torch.zeros(len(batch), max(len(sequence) for _, sequence in batch), dtype=torch.long, device=device)
    for i, (_, sequence) in enumerate(batch):
        ids[i, : len(sequence)] = torch.tensor(sequence)
    # Padding stands to the right of causal attention: the rows that are kept never see it.
    captured, _ = hook.run(model, input_ids=ids, use_cache=False)
    for i, (number, sequence) in enumerate(batch):
        rows = captured[i, : len(sequence)].float().cpu()
        first = torch.zeros(len(sequence), dtype=torch.bool)
        first[0] = True
        keep = without_sinks(rows, first)
        yield (
            rows[keep].to(torch.float16),
            torch.tensor(sequence, dtype=torch.int32)[keep],
            torch.full((int(keep.sum()),), number, dtype=torch.int32),
        )


def _batches(window: list[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Batches of about `BATCH_TOKENS`, similar lengths together."""
    batch: list[tuple[int, list[int]]] = []
    for item in sorted(window, key=lambda item: len(item[1])):
        if batch and len(item[1]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(item)
    yield batch


def _write(folder: Path, index: int, pending: list[tuple[Tensor, Tensor, Tensor]]) -> Path:
    rows, tokens, sequences = (torch.cat(parts).contiguous() for parts in zip(*pending, strict=True))
    path = _path(folder, index)
    partial = path.with_suffix(".partial")
    save_file({"rows": rows, "tokens": tokens, "sequences": sequences}, partial)
    partial.replace(path)
    return path


def _path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def _present(folder: Path) -> Iterator[Path]:
    """Shards up to the first one that is missing; later ones are written again, to the same content."""
    return itertools.takewhile(Path.exists, (_path(folder, index) for index in itertools.count()))


def _sequences_done(shards: Sequence[Path]) -> int:
    if not shards:
        return 0
    with safe_open(shards[-1], "pt") as file:
        return int(file.get_tensor("sequences").max()) + 1
