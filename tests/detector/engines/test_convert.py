"""The conversion itself takes 20 s and runs when the cache is filled; here is what it left, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from groundwire.engines.convert import convert_gguf
from groundwire.engines.reader import Reader
from groundwire.fetch import ensure_model


@pytest.mark.model
def test_the_converted_model_is_plain_float32_with_its_chat_template(reader: Reader) -> None:
    config = json.loads((ensure_model() / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    assert config["num_hidden_layers"] == 30
    weights = reader.model.get_input_embeddings().weight
    assert weights.dtype == torch.float32
    assert weights is reader.model.get_output_embeddings().weight
    assert "<|im_start|>" in reader.tokenizer.chat_template


def test_what_is_no_gguf_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model at all " * 20)
    with pytest.raises((ValueError, OSError)):
        convert_gguf(tmp_path / "broken.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
