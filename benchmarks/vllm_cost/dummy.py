"""A model of Llama 3.1 8B's shape with random weights, and a detector for it: for speed, nothing else.

The output layer is that of the default model's tokenizer, 49,152 tokens and not 128,256, since text has to come out:
7.4 billion weights. The pass is a little shorter for it, so what is added weighs a little more. vLLM makes the weights
itself (`--load-format dummy`), the same ones at each start. The detector is the one that ships, with as many latents,
shapes and grounding terms, but a random encoder of the model's width. The recorded activations by which a server knows
its model are taken from a first start of vLLM with the same flags.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from vllm_cost.flags import options_of

from groundwire.artifact import PROBE_TEXT, Artifact, Probe
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.engines.reader import Identity, identify
from groundwire.types import Term

FLAGS = ["--load-format", "dummy"]
NAME = "llama-3.1-8b-shaped"
WIDTH, LAYERS = 4096, 32


@dataclass(frozen=True)
class Dummy:
    """Folders of the model and of its detector."""

    model: Path
    detector: Path


def config(tokens: int, layers: int = LAYERS) -> dict[str, Any]:
    """Llama 3.1 8B's config.json, but for the number of tokens (and of layers, to try things out)."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokens,
        "hidden_size": WIDTH,
        "intermediate_size": 14336,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }


def hookpoint(layers: int) -> str:
    """As deep in the model as the one that ships is in its own."""
    return f"model.layers.{6 * layers // 10}"


def random_detector(identity: Identity, layers: int, ids: Sequence[int]) -> Artifact:
    """The detector that ships, but with a random encoder; its probe has no row yet."""
    shipped = Artifact.from_pretrained(DEFAULT_ARTIFACT)
    encoder, chance = shipped.scorer.encoder, torch.Generator().manual_seed(0)
    weight = torch.randn(encoder.weight.shape[0], WIDTH, generator=chance) / WIDTH**0.5
    scorer = replace(shipped.scorer, encoder=replace(encoder, weight=weight))
    terms = [
        term if term.kind == "grounding" else Term("latent", f"random {i}", i) for i, term in enumerate(shipped.terms)
    ]
    return replace(
        shipped,
        id="random",
        model=identity.id,
        fingerprint=identity.fingerprint,
        hookpoint=hookpoint(layers),
        scorer=scorer,
        terms=tuple(terms),
        probe=Probe(torch.tensor(list(ids)), torch.zeros(WIDTH)),
        latents={},
        about={"data": ["none: random numbers, for measuring speed"]},
        card="# random\n\nA detector of random numbers, for measuring speed.\n",
    )


def make(folder: Path, flags: Sequence[str], layers: int = LAYERS) -> Dummy:
    """Write both. flags: vLLM's, as the servers get them. Raises RuntimeError where vLLM does not start."""
    name = NAME if layers == LAYERS else f"{NAME}-{layers}-layers"
    made = Dummy(folder / name, folder / "detector")
    tokenizer = identify().tokenizer
    made.model.mkdir(parents=True)
    tokenizer.save_pretrained(made.model)
    (made.model / "config.json").write_text(json.dumps(config(len(tokenizer), layers), indent=1), encoding="utf-8")
    ids = tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"]
    random_detector(identify(made.model), layers, ids).save_pretrained(made.detector)
    process = multiprocessing.get_context("spawn").Process(target=record, args=(made, list(flags)))
    process.start()  # of its own: its memory is free again when it ends
    process.join()
    if process.exitcode:
        raise RuntimeError("the activations of the random model could not be recorded; see vLLM's messages above")
    return made


def record(made: Dummy, flags: Sequence[str]) -> None:
    """Start vLLM, and write what its pass gives into the detector."""
    from groundwire.engines.vllm.engine import VllmEngine

    engine = VllmEngine.open(made.detector, model=made.model, **options_of(flags))
    probe = Probe.record(engine)
    engine.llm.llm_engine.engine_core.shutdown()
    replace(Artifact.from_pretrained(made.detector), probe=probe).save_pretrained(made.detector)
