"""Loading a reader: what comes back, what identifies it, and what is refused with which words."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from groundwire.engines.reader import DEFAULT_MODEL, Reader, identify, load_reader
from groundwire.errors import InputError, ModelError

PARTS = {"config", "tokenizer", "chat_template", "weights"}


@pytest.fixture
def folder(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(tiny_llama_folder, tmp_path / "model")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_is_loaded_ready_to_read(tiny_llama_folder: Path) -> None:
    loaded = load_reader(tiny_llama_folder)
    assert loaded.id == tiny_llama_folder.name
    assert loaded.context == 256
    assert loaded.model.dtype is torch.float32
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer("the bridge", return_offsets_mapping=True)["offset_mapping"]
    assert set(loaded.fingerprint) == PARTS


def test_gpt2_states_its_context_as_n_positions_and_has_no_chat_template(tiny_gpt2_folder: Path) -> None:
    loaded = load_reader(str(tiny_gpt2_folder))
    assert loaded.context == 256
    assert loaded.fingerprint["chat_template"] == "none"


def test_dtype_is_honoured_and_an_unknown_one_refused(tiny_llama_folder: Path) -> None:
    assert load_reader(tiny_llama_folder, dtype="bfloat16").model.dtype is torch.bfloat16
    with pytest.raises(InputError, match="'int3'"):
        load_reader(tiny_llama_folder, dtype="int3")


def test_the_fingerprint_is_the_same_for_a_copy(tiny_llama_folder: Path, folder: Path) -> None:
    assert load_reader(folder).fingerprint == load_reader(tiny_llama_folder).fingerprint


def test_the_fingerprint_ignores_the_transformers_release_that_wrote_the_folder(folder: Path) -> None:
    before = load_reader(folder).fingerprint
    edit_config(folder, transformers_version="5.0.0")
    assert load_reader(folder).fingerprint == before


def test_the_fingerprint_ignores_how_the_tokenizer_is_written_down(folder: Path) -> None:
    """Releases of tokenizers write merges as pairs or as strings, keys in another order, other white space."""
    before = load_reader(folder).fingerprint
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content, sort_keys=True, indent=7))
    assert load_reader(folder).fingerprint == before


@pytest.mark.parametrize("change", ["swap two ids", "split digits", "add a token"])
def test_the_fingerprint_sees_what_a_tokenizer_does(folder: Path, change: str) -> None:
    before = load_reader(folder).fingerprint
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    model = content["model"]
    if change == "swap two ids":
        model["vocab"] |= {"Z": model["vocab"]["Q"], "Q": model["vocab"]["Z"]}
    elif change == "split digits":
        digits = {"type": "Digits", "individual_digits": True}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
        model["merges"] = [*model["merges"], ["1", "8"]]
        model["vocab"]["18"] = len(model["vocab"])
    else:
        model["vocab"]["zzz"] = len(model["vocab"])
    path.write_text(json.dumps(content))
    assert load_reader(folder).fingerprint["tokenizer"] != before["tokenizer"]


@pytest.mark.parametrize("part", sorted(PARTS))
def test_the_fingerprint_says_which_part_differs(folder: Path, part: str) -> None:
    before = load_reader(folder).fingerprint
    change = {"config": _change_config, "tokenizer": _change_tokenizer, "weights": _change_weights}
    change.get(part, _change_template)(folder)
    after = load_reader(folder).fingerprint
    assert {name for name in PARTS if after[name] != before[name]} == {part}


def _change_config(folder: Path) -> None:
    edit_config(folder, rms_norm_eps=1e-3)


def _change_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(content))


def _change_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def _change_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, path, metadata={"format": "pt"})


def test_a_path_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        load_reader(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="there is no folder"):
        load_reader("./nowhere")


def test_an_unknown_id_without_network_says_both_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_reader("nobody/no-such-model")
    message = str(caught.value)
    assert "'nobody/no-such-model' is neither a folder here, nor in the Hugging Face cache" in message
    assert "nor could it be loaded from the hub" in message
    assert "HF_HOME" in caught.value.remedy


def test_an_id_in_the_hugging_face_cache_needs_no_network(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = tmp_path / "models--somebody--tiny"
    shutil.copytree(tiny_llama_folder, stored / "snapshots" / ("0" * 40))
    for name in ("main", "v1"):
        (stored / "refs").mkdir(exist_ok=True)
        (stored / "refs" / name).write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_reader("somebody/tiny", revision="v1")
    assert loaded.id == "somebody/tiny"
    assert loaded.fingerprint == load_reader(tiny_llama_folder).fingerprint
    with pytest.raises(ModelError, match="neither a folder here"):
        load_reader("somebody/tiny", revision="v2")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=r"cannot be loaded|slow tokenizer"):
        load_reader(folder)


def test_cut_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reader(folder)


def test_missing_weights_are_never_made_up(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=5)
    with pytest.raises(ModelError, match=r"lacks \d+ weights, model.layers.4"):
        load_reader(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    ],
)
def test_models_that_are_no_decoders_are_refused(folder: Path, config: dict[str, object]) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="decoder-only"):
        load_reader(folder)


def test_an_unknown_device_is_refused(tiny_llama_folder: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_reader(tiny_llama_folder, device="abacus")


def test_loading_is_silent(tiny_llama_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_reader(tiny_llama_folder)
    assert capfd.readouterr() == ("", "")


def test_importing_fetch_takes_neither_torch_nor_transformers() -> None:
    code = "import sys, groundwire.fetch; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.model
def test_the_default_is_smollm2(reader: Reader) -> None:
    assert reader.id == DEFAULT_MODEL
    assert reader.context == 8192
    assert reader.model.config.hidden_size == 576
    assert reader.fingerprint["weights"] == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    prompt = reader.tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        best = reader.model(**prompt).logits[0, -1].argmax()
    assert reader.tokenizer.decode(best).strip() == "Paris"


def test_a_model_is_identified_without_its_weights(tiny_llama_folder):
    found, loaded = identify(tiny_llama_folder), load_reader(tiny_llama_folder)
    assert (found.id, found.fingerprint) == (loaded.id, loaded.fingerprint)
    assert found.tokenizer("The bridge")["input_ids"] == loaded.tokenizer("The bridge")["input_ids"]


def test_another_chat_template_is_another_fingerprint(tiny_llama_folder):
    own, other = identify(tiny_llama_folder), identify(tiny_llama_folder, chat_template="{{ messages }}")
    assert own.fingerprint["chat_template"] != other.fingerprint["chat_template"]
    assert own.fingerprint["tokenizer"] == other.fingerprint["tokenizer"]


def test_what_cannot_be_identified_is_told_as_where_it_is_loaded(tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        identify(tmp_path / "nothing")
    with pytest.raises(ModelError, match="cannot be loaded"):
        identify(tmp_path)
