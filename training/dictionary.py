"""`groundwire train sae`, from text to a measured dictionary.

sequences -> collect (activations on disk) -> SaeTrainer -> save_dictionary -> measure on held-out text
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from groundwire.capture import substitute
from groundwire.engines.reader import Reader, load_reader
from groundwire.errors import InputError
from groundwire.sae import Dictionary, reconstruction, save_dictionary
from groundwire.training.activations import collect, load_rows, row_count
from groundwire.training.sae import SaeConfig, SaeTrainer
from groundwire.training.text import sequences

MEASURED_DTYPE = "float32"  # detectors read the model so unless told otherwise, whatever the training rows were made in
LOSS_TOKENS = 40_000  # for loss recovered: three passes through the whole model, so fewer than for the rest


@dataclass(frozen=True)
class DictionaryRun:
    """The options of `groundwire train sae`."""

    model: str | None
    hookpoint: str
    tokens: int
    held_out_tokens: int
    latents: int
    k: int
    epochs: int
    rag_share: float
    context: int
    dtype: str
    device: str
    seed: int


def train_dictionary(text: Path, folder: Path, run: DictionaryRun) -> dict[str, Any]:
    """Do what is not done yet; return the report, which is also written to `folder/report.json`."""
    reader = load_reader(run.model, dtype=run.dtype, device=run.device)
    if 2 * run.context > reader.context:
        raise InputError(
            f"sequences of up to {2 * run.context} tokens (RAG prompts take twice the context)",
            expected=f"at most {reader.context}, the context of {reader.id}",
            remedy=f"pass --context {reader.context // 2} or less",
        )
    shards = _activations(reader, text, folder / "activations" / "training", run, held_out=False)
    config = SaeConfig(latents=run.latents, k=run.k, epochs=run.epochs, seed=run.seed)
    trainer = SaeTrainer(config, checkpoint=folder / "checkpoint.safetensors", device=run.device)
    trainer.fit(shards, hookpoint=run.hookpoint, model=reader.id)
    trained = {
        "training_tokens": sum(map(row_count, shards)),
        "text": text.name,
        "rag_share": run.rag_share,
        "dtype": run.dtype,
        **asdict(config),
    }
    dictionary = replace(trainer.dictionary_, metadata=trained)
    save_dictionary(dictionary, folder)
    if run.dtype != MEASURED_DTYPE:
        reader = load_reader(run.model, dtype=MEASURED_DTYPE, device=run.device)
    report = {**trained, **measure(dictionary, reader, text, folder, run)}
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    return report


def measure(dictionary: Dictionary, reader: Reader, text: Path, folder: Path, run: DictionaryRun) -> dict[str, Any]:
    """Figures on documents that were not trained on: mean-centred fraction of variance unexplained, L0, dead latents
    (silent throughout), and the share of the language model's loss that the reconstruction recovers."""
    shards = _activations(reader, text, folder / "activations" / "held-out", run, held_out=True)
    rows = load_rows(shards)
    found = reconstruction(dictionary, rows)
    held_out = sequences(
        text, reader.tokenizer, held_out=True, context=run.context, rag_share=run.rag_share, seed=run.seed
    )
    return {
        "held_out_tokens": len(rows),
        "fraction_of_variance_unexplained": found.fvu,
        "l0": found.l0,
        "dead": found.dead,
        **loss_recovered(reader.model, dictionary, run.hookpoint, held_out),
    }


def loss_recovered(
    model: nn.Module, dictionary: Dictionary, hookpoint: str, texts: Iterator[list[int]], *, tokens: int = LOSS_TOKENS
) -> dict[str, float]:
    """Next-token loss (nats) with the hookpoint's rows as they are, reconstructed, and replaced by their mean.

    `loss_recovered` = (mean - reconstructed) / (mean - original). The first token, an attention sink, stays as it is in
    all three.
    """

    def keep_first(function: Any) -> Any:
        return lambda rows: torch.cat([rows[:, :1], function(rows[:, 1:])], dim=1)

    def rebuild(rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1]).float().cpu()  # where the dictionary is, whatever runs the model
        return dictionary.decode(dictionary.encode(flat)).reshape(rows.shape).to(rows)

    def flatten(rows: Tensor) -> Tensor:
        return rows.mean(1, keepdim=True).expand_as(rows)

    ways = {"loss": None, "loss_reconstructed": keep_first(rebuild), "loss_mean": keep_first(flatten)}
    sums, count = dict.fromkeys(ways, 0.0), 0
    with torch.inference_mode(), tqdm(total=tokens, unit="tok", desc="loss recovered", disable=None) as bar:
        for ids in texts:
            given = torch.tensor([ids], device=next(model.parameters()).device)
            for name, function in ways.items():
                if function is None:
                    sums[name] += _loss(model, given)
                else:
                    with substitute(model, hookpoint, function):
                        sums[name] += _loss(model, given)
            count += len(ids) - 1
            bar.update(len(ids) - 1)
            if count >= tokens:
                break
    means = {name: total / max(1, count) for name, total in sums.items()}
    recovered = (means["loss_mean"] - means["loss_reconstructed"]) / (means["loss_mean"] - means["loss"])
    return {**means, "loss_tokens": count, "loss_recovered": recovered}


def _loss(model: nn.Module, ids: Tensor) -> float:
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))


def _activations(reader: Reader, text: Path, folder: Path, run: DictionaryRun, *, held_out: bool) -> list[Path]:
    description = {
        "model": reader.id,
        "fingerprint": reader.fingerprint,
        "hookpoint": run.hookpoint,
        "text": text.name,
        "held_out": held_out,
        "rag_share": run.rag_share,
        "context": run.context,
        "dtype": MEASURED_DTYPE if held_out else run.dtype,
        "seed": run.seed,
    }
    texts = sequences(
        text, reader.tokenizer, held_out=held_out, context=run.context, rag_share=run.rag_share, seed=run.seed
    )
    tokens = run.held_out_tokens if held_out else run.tokens
    return collect(reader.model, run.hookpoint, texts, folder, tokens=tokens, description=description)
