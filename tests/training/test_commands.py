from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.training.commands import detector, sae
from groundwire.types import Example

pytestmark = pytest.mark.usefixtures("few_rounds")


@pytest.fixture
def labelled(tmp_path):
    """Answers to passages; the unfaithful ones have another ending."""
    path = tmp_path / "answers.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            question, label = divmod(number, 2)
            response = f"Bridge {question}" + (" is in Lisbon." if label else " was built in 1889.")
            row = {"context": [f"Bridge {question} is from 1889."], "question": "When?", "response": response}
            file.write(json.dumps({**row, "label": label, "spans": None, "generator": f"m{number % 3}"}) + "\n")
    return path


def invoke(command, *args):
    return CliRunner().invoke(command, [str(arg) for arg in args])


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_text_and_answers_to_a_detector_and_again(tiny_llama_folder, articles, labelled, tmp_path):
    """`train sae`, then `train detector`, then both once more: nothing is computed again, nothing changes."""
    dictionary, folder = tmp_path / "dictionary", tmp_path / "detector"
    model = ("--model", tiny_llama_folder)
    commands = [
        (sae, articles, "-o", dictionary, *model, "--hookpoint", "model.layers.2", "--tokens", 3000,
         "--held-out-tokens", 300, "--latents", 128, "--k", 16, "--epochs", 60, "--context", 64),
        (detector, labelled, "-o", folder, "--dictionary", dictionary, *model, "--latents", 6,
         "--label-text", dictionary / "activations" / "training", "--licence", "answers=CC0", "--id", "tiny-detector"),
    ]  # fmt: skip
    written = []
    for _ in range(2):
        for command in commands:
            result = invoke(*command)
            assert result.exit_code == 0, result.exception
        written.append(files(tmp_path))
    assert written[0] == written[1]
    report = json.loads((dictionary / "report.json").read_text())
    assert report["fraction_of_variance_unexplained"] < 0.5
    loaded = Detector.from_pretrained(folder, model=tiny_llama_folder)
    row = Example("1", [{"role": "user", "content": "Bridge 3 is from 1889. When?"}], "Bridge 3 is in Lisbon.")
    assert loaded.id == "tiny-detector"
    assert 0 < loaded.score(row).score < 1
    assert "| answers | 60 | 30 | 30 | CC0 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_detector_command_prints_its_figures(tiny_llama_folder, labelled, tmp_path):
    import torch

    from groundwire.sae import Dictionary, save_dictionary

    both = torch.cat([torch.eye(32), -torch.eye(32)])
    made = Dictionary(both, torch.zeros(64), both, torch.zeros(32), "relu", hookpoint="model.layers.2")
    save_dictionary(made, tmp_path / "identity")
    options = ("--dictionary", tmp_path / "identity", "--model", tiny_llama_folder, "--latents", 4)
    result = invoke(detector, labelled, "-o", tmp_path / "detector", *options)
    assert result.exit_code == 0, result.exception
    printed = json.loads(result.stdout)
    assert printed["figures"][0]["rows"] == 60
    assert printed["figures"][0]["split"] == "5-fold by group"


def test_a_missing_text_is_a_clear_error(tiny_llama_folder, tmp_path):
    options = ("--model", tiny_llama_folder, "--hookpoint", "model.layers.2", "--context", 64)
    result = invoke(sae, tmp_path / "none.jsonl", "-o", tmp_path / "out", *options)
    assert isinstance(result.exception, InputError)
    assert "no such file" in str(result.exception)


def test_missing_answers_are_a_clear_error(tmp_path):
    result = invoke(detector, tmp_path / "none.jsonl", "-o", tmp_path / "out", "--dictionary", tmp_path)
    assert isinstance(result.exception, InputError)
    assert "no such file" in str(result.exception)


@pytest.mark.parametrize(
    "options", [("--rag-share", "1.5"), ("--tokens", "0"), ("--k", "0"), ("--dtype", "int4"), ("--latents", "many")]
)
def test_options_out_of_range_are_refused(tmp_path, options):
    result = invoke(sae, tmp_path / "text.jsonl", "-o", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert f"Invalid value for '{options[0]}'" in result.output


def test_help_names_both_commands():
    result = invoke(cli, "train", "--help")
    assert result.exit_code == 0
    assert {"sae", "detector"} <= set(result.output.split())
