"""Adapters on disk: what is saved is what is loaded, PEFT reads it alike, and what is not plain LoRA is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundwire.adapter import CONFIG, WEIGHTS, Adapter
from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import ArtifactError
from tests.detector.tiny import random_adapter, tiny_engine

QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def engine(tiny_llama_folder: Path) -> TransformersEngine:
    return tiny_engine(tiny_llama_folder)


@pytest.fixture
def folder(engine: TransformersEngine, tmp_path: Path) -> Path:
    random_adapter(engine).save_pretrained(tmp_path / "adapter", base_model="tiny")
    return tmp_path / "adapter"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_new_one_changes_nothing_yet_and_knows_every_linear_layer(engine: TransformersEngine) -> None:
    new = Adapter.new(engine.model, engine.model.model.layers[:2], 4, 8.0)
    parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert sorted(path.rsplit(".", 1)[-1] for path in new.weights) == sorted([*parts, *parts])
    assert {path.split(".")[2] for path in new.weights} == {"0", "1"}
    assert (new.rank, new.scale, len(new.parameters())) == (4, 2.0, 28)
    for path, (a, b) in new.weights.items():
        linear = engine.model.get_submodule(path)
        assert (a.shape, b.shape) == ((4, linear.in_features), (linear.out_features, 4))
        assert not b.any()
        assert a.any()
    again = Adapter.new(engine.model, engine.model.model.layers[:2], 4, 8.0)
    assert all(torch.equal(one, other) for one, other in zip(new.parameters(), again.parameters(), strict=True))


def test_saved_and_loaded_it_is_the_same_in_bfloat16(engine: TransformersEngine, folder: Path) -> None:
    before, after = random_adapter(engine), Adapter.from_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {CONFIG, WEIGHTS}
    assert {tensor.dtype for tensor in load_file(folder / WEIGHTS).values()} == {torch.bfloat16}
    assert (after.alpha, after.rank, after.scale) == (before.alpha, before.rank, before.scale)
    assert set(after.weights) == set(before.weights)
    for path, pair in before.weights.items():
        for one, other in zip(pair, after.weights[path], strict=True):
            assert other.dtype == torch.float32
            assert torch.equal(one.bfloat16().float(), other)


def test_it_is_moved_whole(engine: TransformersEngine) -> None:
    moved = random_adapter(engine).to("cpu", torch.float64)
    assert {part.dtype for part in moved.parameters()} == {torch.float64}
    assert moved.scale == random_adapter(engine).scale


@pytest.mark.filterwarnings("ignore")  # PEFT's own
def test_peft_reads_it_and_computes_the_same(engine: TransformersEngine, tiny_llama_folder: Path, folder: Path) -> None:
    """With no prompt the adapter is active on every token, as it always is with PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
    ids = engine.tokenizer("The lighthouse was finished in 1889.")["input_ids"]
    fresh = tiny_engine(tiny_llama_folder)
    model = peft.PeftModel.from_pretrained(fresh.model, folder).eval()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
    ((rows, _),) = engine.adapted(Adapter.from_pretrained(folder)).replay_rows([Asked([], [ids])])
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)
    assert (rows - engine.read(ids)).abs().max() > 0.1


# -- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_missing_or_truncated_file_is_refused(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ArtifactError, match="no readable adapter") as caught:
        Adapter.from_pretrained(folder)
    assert CONFIG in caught.value.expected
    assert WEIGHTS in caught.value.expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(use_dora=True), "use_dora is set"),
        (lambda c: c.update(use_rslora=True), "use_rslora is set"),
        (lambda c: c.update(rank_pattern={"q_proj": 4}), "rank_pattern is set"),
        (lambda c: c.update(alpha_pattern={"q_proj": 4}), "alpha_pattern is set"),
        (lambda c: c.update(bias="all"), "bias 'all'"),
        (lambda c: c.update(peft_type="IA3"), "peft_type 'IA3'"),
        (lambda c: c.pop("lora_alpha"), "lora_alpha None"),
        (lambda c: c.update(r=8), r"r is 8, the tensors have ranks \[2\]"),
    ],
)
def test_what_is_not_plain_lora_is_refused(folder: Path, change: Callable[..., Any], words: str) -> None:
    edit(folder, change)
    with pytest.raises(ArtifactError, match=words) as caught:
        Adapter.from_pretrained(folder)
    assert "plain LoRA of one rank: no DoRA, no rsLoRA, no biases, no rank patterns" in caught.value.expected


def test_json_that_is_no_object_is_refused(folder: Path) -> None:
    (folder / CONFIG).write_text("[]")
    with pytest.raises(ArtifactError, match="no JSON object"):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(QUERY.format("B")), r"no fitting A and B for model\.layers\.0\.self_attn\.q_proj"),
        (lambda t: t.update({QUERY.format("A"): torch.zeros(32)}), "no fitting A and B"),
        (lambda t: t.update({QUERY.format("A"): torch.zeros(3, 32)}), "no fitting A and B"),
        (
            lambda t: t.update({QUERY.format("A"): torch.zeros(3, 32), QUERY.format("B"): torch.zeros(32, 3)}),
            r"ranks \[2, 3\]",
        ),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2, 2)}), r"it holds base_model.*lm_head"),
        (lambda t: t.clear(), r"ranks \[\]"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(folder: Path, change: Callable[..., Any], words: str) -> None:
    edit_tensors(folder, change)
    with pytest.raises(ArtifactError, match=words):
        Adapter.from_pretrained(folder)
