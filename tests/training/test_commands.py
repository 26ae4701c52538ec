from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.training.commands import calibrate, detector, sae
from groundwire.types import Example
from tests.detector.tiny import random_artifact, tiny_engine

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
    assert printed["figures"][0]["rows"] == 12  # a fifth of the groups, kept back
    assert printed["figures"][0]["split"] == "kept back: 1 in 5 groups"


@pytest.fixture
def tiny_artifact(tiny_llama_folder, tmp_path):
    folder = tmp_path / "shipped"
    random_artifact(tiny_engine(tiny_llama_folder)).save_pretrained(folder)
    return folder


def test_calibrate_fits_a_detector_to_answers_and_shows_what_it_is_worth(
    tiny_llama_folder, tiny_artifact, labelled, tmp_path
):
    options = ("--artifact", tiny_artifact, "--model", tiny_llama_folder, "-o", tmp_path / "mine", "--folds", 3)
    result = invoke(calibrate, labelled, *options)
    assert result.exit_code == 0, result.exception
    assert "Fitted on 60 rows in 30 groups, 30 of them unfaithful" in result.stdout
    assert "3-fold cross-validation" in result.stdout
    before, after = (
        Detector.from_pretrained(folder, model=tiny_llama_folder) for folder in (tiny_artifact, tmp_path / "mine")
    )
    row = Example("1", [{"role": "user", "content": "Bridge 3 is from 1889. When?"}], "Bridge 3 is in Lisbon.")
    fit = after.artifact.about["recalibrations"][0]
    assert after.score(row).logit == pytest.approx(fit["scale"] * before.score(row).logit + fit["shift"], abs=1e-5)
    assert after.threshold == after.artifact.thresholds["balanced_accuracy"]
    again = invoke(calibrate, labelled, *options)
    assert isinstance(again.exception, InputError)
    assert "--overwrite" in str(again.exception)
    written = files(tmp_path / "mine")
    assert invoke(calibrate, labelled, *options, "--overwrite").exit_code == 0
    assert files(tmp_path / "mine") == written


def test_calibrate_leaves_out_what_it_cannot_use_and_says_so(tiny_llama_folder, tiny_artifact, labelled, tmp_path):
    with labelled.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "p", "response": " ", "label": 1}\n{"prompt": "p", "response": "r"}\nnot json\n')
    options = ("--artifact", tiny_artifact, "--model", tiny_llama_folder, "-o", tmp_path / "mine")
    result = invoke(calibrate, labelled, *options)
    assert result.exit_code == 1  # written, but some lines could not be read
    assert "Fitted on 60 rows" in result.stdout
    assert "1 not checked: empty_response" in result.stdout
    assert "2 lines could not be read:" in result.stdout
    assert "line 62" in result.stdout
    assert (tmp_path / "mine" / "config.json").is_file()


def test_calibrate_refuses_before_the_model_is_loaded(labelled, tmp_path):
    rows = [json.loads(line) for line in labelled.read_text(encoding="utf-8").splitlines()]
    unlabelled, few = tmp_path / "unlabelled.jsonl", tmp_path / "few.jsonl"
    unlabelled.write_text("".join(json.dumps({**row, "label": None}) + "\n" for row in rows), encoding="utf-8")
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:6]), encoding="utf-8")
    for path, said in [(unlabelled, "has a label"), (few, "fewer folds"), (tmp_path / "none.jsonl", "cannot read")]:
        result = invoke(calibrate, path, "-o", tmp_path / "mine", "--model", tmp_path / "no-such-model")
        assert isinstance(result.exception, InputError)
        assert said in str(result.exception)
    assert not (tmp_path / "mine").exists()


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
