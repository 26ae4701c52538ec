"""Turns a GGUF file of a Llama model into the folder that transformers loads fast: safetensors, config, tokenizer."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from groundwire.engines.quiet import quiet


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model in `gguf`, dequantised to float32, and its tokenizer into `folder`.

    transformers refuses to save a model that it read from GGUF, so the weights move into a fresh one of the same
    configuration without the mark of quantisation.
    """
    where: dict[str, Any] = {
        "pretrained_model_name_or_path": gguf.parent,
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    with quiet(), redirect_stderr(io.StringIO()):  # the bar of the dequantisation knows no switch
        quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        config = quantised.config.to_dict()
        config.pop("quantization_config", None)
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig(**config))
        model.load_state_dict(quantised.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
