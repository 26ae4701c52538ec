"""Labelled answers through the model, once: what detectors are fitted on, on disk.

One safetensors file per data set: `maximum` `[rows, latents]` float32 (pre-activations of the whole dictionary, pooled
to the maximum over response tokens, RAGLens section 3.2), `peak` `[rows, latents]` int32 (the row of that maximum),
`length` `[rows]` (response tokens). Rows stand in the data set's order; work is kept in parts of some hundred rows, and
an interrupted run continues with the first part that is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from groundwire.additive import Shapes
from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import Rendered, rendered, tokenize_response
from groundwire.sae import Dictionary
from groundwire.scoring import Scorer
from groundwire.training.data import LabelledExample
from groundwire.types import Token

PART_ROWS = 256


@dataclass(frozen=True)
class Features:
    """Pooled features of labelled examples, in their order. `length` 0 marks a response without tokens."""

    maximum: Float[np.ndarray, "rows latents"]
    peak: Int[np.ndarray, "rows latents"]
    length: Int[np.ndarray, " rows"]


def collect_features(
    engine: TransformersEngine, dictionary: Dictionary, examples: Sequence[LabelledExample], folder: Path
) -> Features:
    """Features of `examples`; parts that `folder` already holds are not computed again.

    Raises InputError where `folder` was filled from other rows, another model, hookpoint or dictionary, and where an
    example does not fit the model's context.
    """
    folder.mkdir(parents=True, exist_ok=True)
    check_source(folder, engine, examples, dictionary=_digest(dictionary))
    scorer = _whole_dictionary(dictionary)
    parts = []
    with tqdm(total=len(examples), unit="row", desc="features", disable=None) as bar:
        for start in range(0, len(examples), PART_ROWS):
            path = folder / f"part-{start // PART_ROWS:05d}.safetensors"
            batch = examples[start : start + PART_ROWS]
            if not path.exists():
                partial = path.with_suffix(".partial")
                save_file(_part(engine, scorer, batch), partial)
                partial.replace(path)
            parts.append(load_file(path))
            bar.update(len(batch))
    joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in ("maximum", "peak", "length")}
    return Features(**joined)


def _part(engine: TransformersEngine, scorer: Scorer, examples: Sequence[LabelledExample]) -> dict[str, torch.Tensor]:
    state = scorer.new_state(len(examples), engine.device)
    asked, members = asked_of(engine, examples)
    numbers = torch.tensor(members, device=engine.device)
    for rows, slots in engine.replay_rows(asked):
        scorer.fold(state, scorer.encode(rows), numbers[slots])
    if not bool(state.finite.all()):
        bad = [examples[i].id for i in (~state.finite).nonzero()[:, 0].tolist()]
        raise InputError(f"activations that are not finite, rows {bad[:5]}", remedy="use float32 weights")
    return {
        "maximum": torch.where(state.count[:, None] > 0, state.maximum, 0.0).float().cpu(),
        "peak": state.peak.int().cpu(),
        "length": state.count.int().cpu(),
    }


def asked_of(
    engine: TransformersEngine, examples: Sequence[LabelledExample], focus: int = 0
) -> tuple[list[Asked], list[int]]:
    """What the engine is asked, and which example each response belongs to, counted through all prompts.

    focus: passage sentences that a sentence of an answer is read with; 0 for all. Raises PromptTooLong naming the first
    example that does not fit the model's context.
    """
    groups: dict[Rendered, dict[int, Sequence[Token]]] = {}
    for i, example in enumerate(examples):
        prompt = rendered(engine.tokenizer, example.messages)
        response = tokenize_response(engine.tokenizer, example.response)
        if len(prompt) + len(response) > engine.context:
            raise PromptTooLong(
                f"row {example.id}: {len(prompt)} prompt and {len(response)} response tokens",
                expected=f"at most {engine.context} together, the context of {engine.model_id}",
                remedy="leave the row out of the training data",
            )
        groups.setdefault(prompt, {})[i] = response
    asked = [
        Asked.of(prompt, [(examples[i].response, tokens) for i, tokens in responses.items()], focus)
        for prompt, responses in groups.items()
    ]
    return asked, [i for responses in groups.values() for i in responses]


def _whole_dictionary(dictionary: Dictionary) -> Scorer:
    """A scorer over every latent; its shapes say nothing, only what it folds is used."""
    latents = dictionary.n_latents
    encoder = dictionary.select(range(latents), activation="pre")
    nothing = Shapes(torch.full((latents, 1), torch.inf), torch.zeros(latents, 2), torch.zeros(latents, 2))
    return Scorer(encoder, nothing, intercept=0.0)


def check_source(folder: Path, engine: TransformersEngine, examples: Sequence[LabelledExample], **others: str) -> None:
    """Record what the parts in `folder` are made of; raise InputError where they were made of something else."""
    path = folder / "source.json"
    rows = hashlib.sha256(json.dumps([[*map(dict, e.messages), e.response] for e in examples]).encode()).hexdigest()
    source = {"model": engine.model_id, "hookpoint": engine.hookpoint, **others, "rows": rows}
    filled = any(folder.glob("part-*.safetensors"))
    if filled and path.exists() and (found := json.loads(path.read_text())) != source:
        differs = [name for name in source if found.get(name) != source[name]]
        raise InputError(
            f"{folder} holds features made with another {', '.join(differs)}",
            expected="features of the same rows, model and dictionary",
            remedy="choose another folder, or delete this one",
        )
    path.write_text(json.dumps(source, indent=1))


def _digest(dictionary: Dictionary) -> str:
    """Of all that pre-activations depend on."""
    digest = hashlib.sha256(f"{dictionary.input_scale} {dictionary.subtract_decoder_bias}".encode())
    for tensor in (dictionary.encoder, dictionary.encoder_bias, dictionary.decoder_bias):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
