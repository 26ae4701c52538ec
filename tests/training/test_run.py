from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from groundwire.artifact import Artifact
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import DictionaryError, InputError
from groundwire.sae import Dictionary, load_dictionary, save_dictionary
from groundwire.training.activations import collect
from groundwire.training.run import DetectorRun, run_detector
from groundwire.training.text import sequences

HOOKPOINT = "model.layers.2"


pytestmark = pytest.mark.usefixtures("few_rounds")


@pytest.fixture
def labelled(tmp_path):
    path = tmp_path / "answers.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(60):
            question, label = divmod(number, 2)
            response = "A keeper from Lisbon says so." if label else "It was built in 1889."
            row = {"prompt": f"Who built bridge {question}?", "response": response, "label": label, "group": question}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def dictionary(tmp_path):
    both = torch.cat([torch.eye(32), -torch.eye(32)])  # rebuilds every row
    made = Dictionary(both, torch.zeros(64), both, torch.zeros(32), "relu", hookpoint=HOOKPOINT)
    save_dictionary(replace(made, metadata={"training_tokens": 1234}), tmp_path / "dictionary")
    return tmp_path / "dictionary"


@pytest.fixture(params=["tokens", "raglens"])
def run(tiny_llama_folder, dictionary, request):
    return DetectorRun(
        dictionary=dictionary, work=None, model=str(tiny_llama_folder), hookpoint=None, label_text=None,
        detector_id=None, detector_version="1", latents=5, licences=("answers=MIT",), jobs=1, seed=0,
        recipe=request.param,
    )  # fmt: skip


def test_files_become_an_artifact_with_its_card(labelled, tmp_path, run):
    found = run_detector([labelled], tmp_path / "detector-1.2", run)
    artifact = Artifact.from_pretrained(tmp_path / "detector-1.2")
    assert artifact.about["figures"] == json.loads(json.dumps(found["figures"]))
    assert (artifact.id, artifact.model) == ("tiny-llama", "tiny-llama")
    assert sum(term.kind == "latent" for term in artifact.terms) == 5
    assert "1234 tokens" in artifact.card
    assert artifact.about["training"] == [
        {"dataset": "answers", "rows": 60, "unfaithful": 30, "groups": 30, "license": "MIT"}
    ]
    kept = "features" if run.recipe == "raglens" else "rows/answers"
    assert (tmp_path / "detector-1.2.work" / kept / "source.json").exists()  # not detector-1.work


def test_latents_are_named_by_the_text_that_was_kept(labelled, articles, tiny, tmp_path, run):
    texts = sequences(articles, tiny.tokenizer, held_out=False, context=64)
    collect(tiny.model, HOOKPOINT, texts, tmp_path / "activations", tokens=300, description={})
    run_detector([labelled], tmp_path / "named", replace(run, label_text=tmp_path / "activations"))
    run_detector([labelled], tmp_path / "unnamed", run)
    named, unnamed = (Artifact.from_pretrained(tmp_path / name) for name in ("named", "unnamed"))
    assert all(entry["top_tokens"] and entry["examples"] for entry in named.latents.values())
    assert not any(entry["top_tokens"] or entry["examples"] for entry in unnamed.latents.values())
    assert [t.feature_id for t in named.terms] == [t.feature_id for t in unnamed.terms]


def test_more_latents_than_the_dictionary_has_are_all_of_them(labelled, tmp_path, run):
    run_detector([labelled], tmp_path / "detector", replace(run, latents=1000))
    artifact = Artifact.from_pretrained(tmp_path / "detector")
    latents = [term for term in artifact.terms if term.kind == "latent"]
    assert len(latents) == artifact.about["dictionary"]["latents_kept"] == 64


def test_a_dictionary_that_does_not_fit_is_refused_before_anything_is_computed(labelled, tmp_path, run):
    broken = replace(load_dictionary(run.dictionary), decoder_bias=torch.full((32,), 100.0))
    save_dictionary(broken, tmp_path / "broken")
    with pytest.raises(DictionaryError, match="does not rebuild the rows"):
        run_detector([labelled], tmp_path / "detector", replace(run, dictionary=tmp_path / "broken"))
    assert not (tmp_path / "detector.work").exists()


def test_a_dictionary_without_a_hookpoint_needs_one(labelled, tmp_path, run):
    save_dictionary(replace(load_dictionary(run.dictionary), hookpoint=None), tmp_path / "nowhere")
    nowhere = replace(run, dictionary=tmp_path / "nowhere")
    with pytest.raises(DictionaryError, match="pass it as --hookpoint"):
        run_detector([labelled], tmp_path / "detector", nowhere)
    run_detector([labelled], tmp_path / "detector", replace(nowhere, hookpoint=HOOKPOINT))
    assert Artifact.from_pretrained(tmp_path / "detector").hookpoint == HOOKPOINT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"licences": ("MIT",)}, "DATASET=LICENCE"),
        ({"label_text": True}, "holds no shard"),
        ({"tokens": ("answers",)}, "DATASET=N"),
        ({"tokens": ("answers=-1",)}, "DATASET=N"),
    ],
)
def test_mistakes_in_the_options_show_before_the_model_is_loaded(labelled, tmp_path, run, monkeypatch, change, message):
    monkeypatch.setattr("groundwire.training.run.load_reader", lambda *_: pytest.fail("the model was loaded"))
    change = {name: tmp_path if value is True else value for name, value in change.items()}
    with pytest.raises(InputError, match=message):
        run_detector([labelled], tmp_path / "detector", replace(run, **change))


def test_a_second_run_reads_no_answer_again(labelled, tmp_path, run, monkeypatch):
    run_detector([labelled], tmp_path / "detector", run)
    before = {path.name: path.read_bytes() for path in (tmp_path / "detector").iterdir()}
    monkeypatch.setattr(TransformersEngine, "replay_rows", lambda *_: pytest.fail("an answer was read again"))
    run_detector([labelled], tmp_path / "detector", run)
    assert {path.name: path.read_bytes() for path in (tmp_path / "detector").iterdir()} == before
