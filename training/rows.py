"""Residual rows of labelled answers, once through the model: what token-level heads are fitted on, on disk.

One safetensors file per some hundred answers: `rows` `[tokens, d_model]` float16, `lengths` `[answers]`. Answers stand
in the data set's order; an interrupted run continues with the first file that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError
from groundwire.training.data import LabelledExample
from groundwire.training.features import asked_of, check_source

PART_ROWS = 256
_LARGEST = 60_000.0  # float16 ends at 65504; attention sinks go beyond


@dataclass(frozen=True)
class TokenRows:
    """Rows of many answers, one after the other; those of answer i are `rows[offsets[i]:offsets[i + 1]]`."""

    rows: Float[np.ndarray, "tokens d"]
    offsets: Int[np.ndarray, " answers_and_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, answers: Sequence[int] | np.ndarray) -> TokenRows:
        """The rows of some answers, in the order asked for."""
        chosen = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in answers]
        lengths = np.array([len(c) for c in chosen], dtype=np.int64)
        return TokenRows(self.rows[np.concatenate([np.zeros(0, int), *chosen])], np.r_[0, lengths.cumsum()])


def join(parts: Sequence[TokenRows]) -> TokenRows:
    """One after the other."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    return TokenRows(np.concatenate([part.rows for part in parts]), np.r_[0, lengths.cumsum()])


def collect_rows(
    engine: TransformersEngine, examples: Sequence[LabelledExample], folder: Path, focus: int = 0
) -> TokenRows:
    """Rows of `examples` at the engine's hookpoint; parts that `folder` already holds are not computed again.

    focus: passage sentences that a sentence of an answer is read with; 0 for all.
    Raises InputError where `folder` was filled from other examples, another model or hookpoint, where an example does
    not fit the model's context, and on activations that are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_source(folder, engine, examples, **({"focus": str(focus)} if focus else {}))
    parts = []
    with tqdm(total=len(examples), unit="row", desc="rows", disable=None) as bar:
        for start in range(0, len(examples), PART_ROWS):
            path = folder / f"part-{start // PART_ROWS:05d}.safetensors"
            batch = examples[start : start + PART_ROWS]
            if not path.exists():
                partial = path.with_suffix(".partial")
                save_file(_part(engine, batch, focus), partial)
                partial.replace(path)
            part = load_file(path)
            parts.append(TokenRows(part["rows"].numpy(), np.r_[0, part["lengths"].numpy().astype(np.int64).cumsum()]))
            bar.update(len(batch))
    return join(parts)


def _part(engine: TransformersEngine, examples: Sequence[LabelledExample], focus: int) -> dict[str, torch.Tensor]:
    found = [torch.zeros(0, engine.read([0]).shape[1], dtype=torch.float16) for _ in examples]
    asked, members = asked_of(engine, examples, focus)
    for rows, slots in engine.replay_rows(asked):
        if not bool(rows.isfinite().all()):
            raise InputError("activations that are not finite", remedy="use float32 weights")
        kept = rows.float().clamp(-_LARGEST, _LARGEST).half().cpu()
        for slot in slots.unique().tolist():
            found[members[slot]] = kept[(slots == slot).cpu()]
    return {"rows": torch.cat(found), "lengths": torch.tensor([len(rows) for rows in found])}
