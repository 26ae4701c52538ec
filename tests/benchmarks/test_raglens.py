from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from groundwire.errors import InputError
from groundwire.sae import Dictionary, save_dictionary
from groundwire.training import fit

REPORT = {
    "training_tokens": 99,
    "latents": 64,
    "l0": 32.0,
    "fraction_of_variance_unexplained": 0.1,
    "dead": 0.0,
    "loss_recovered": 0.9,
    "held_out_tokens": 9,
}
SPANS = [{"start": 0, "end": 8}]


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setitem(fit.RECIPE, "max_rounds", 10)
    monkeypatch.setitem(fit.RECIPE, "outer_bags", 2)


@pytest.fixture
def arguments(tmp_path, tiny_llama_folder):
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    made = Dictionary(both, torch.zeros(64), both, torch.zeros(32), "relu", hookpoint="model.layers.2")
    save_dictionary(made, tmp_path / "dictionary")
    (tmp_path / "dictionary" / "report.json").write_text(json.dumps(REPORT))
    with (tmp_path / "answers.jsonl").open("w") as file:
        for number in range(60):
            response = "A keeper says so." if number % 2 else f"It was built in {1880 + number}."
            row = {"prompt": f"Who built bridge {number // 2}?", "response": response, "label": number % 2}
            file.write(json.dumps({**row, "group": number // 2, "spans": SPANS if number % 2 else []}) + "\n")
    return [
        *(tmp_path / "answers.jsonl", "--dictionary", tmp_path / "dictionary", "--work", tmp_path / "work"),
        *("-o", tmp_path / "results" / "raglens-answers.json", "--model", tiny_llama_folder, "--latents", 4),
    ]


def run(script, arguments):
    return CliRunner().invoke(script("raglens").main, [str(argument) for argument in arguments])


def test_figures_stand_beside_the_priors_and_what_made_them(script, arguments, tmp_path):
    result = run(script, arguments)
    assert result.exit_code == 0, result.exception
    written = tmp_path / "results" / "raglens-answers.json"
    found = json.loads(written.read_text(encoding="utf-8"))
    assert found["figures"]["auc"] > 0.9
    assert set(found["figures"]["priors"]) == {"length", "generator", "absent_words", "absent_bigrams"}
    (row,) = found["tables"]["raglens"]
    assert (row["data set"], row["rows"], row["AUC"]) == ("answers", 60, found["figures"]["auc"])
    assert list(row.values())[-4:] == list(found["figures"]["priors"].values())
    assert set(found["tables"]) == {"raglens", "tokens", "dictionary"}
    assert found["tables"]["dictionary"][0]["loss recovered"] == 0.9
    assert found["dictionary"] == REPORT
    assert found["command"] == "python benchmarks/raglens.py answers.jsonl --dictionary dictionary --latents 4 --seed 0"
    assert {"torch", "interpret-core", "python"} <= set(found["versions"])
    assert str(tmp_path) not in written.read_text(encoding="utf-8")
    shown = script("tables").render("<!-- table:raglens -->\n<!-- /table -->", written.parent)
    assert "| answers | 60 |" in shown


def test_a_second_run_gives_the_same_file(script, arguments, tmp_path):
    written = []
    for _ in range(2):
        run(script, arguments)
        written.append((tmp_path / "results" / "raglens-answers.json").read_bytes())
    assert written[0] == written[1]


def test_missing_data_is_a_clear_error(script, arguments, tmp_path):
    result = run(script, [tmp_path / "none.jsonl", *arguments[1:]])
    assert isinstance(result.exception, InputError)
