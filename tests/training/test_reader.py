from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from groundwire.artifact import Artifact
from groundwire.calibration import sigmoid
from groundwire.cli import cli
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.sae import Dictionary, save_dictionary
from groundwire.training.data import part_of, read_labelled
from groundwire.training.reader import ReaderRun, in_part, thinned
from groundwire.training.run import DetectorRun, run_detector
from groundwire.types import Example

HOOKPOINT = "model.layers.2"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "answers.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(90):
            year, wrong = 1700 + number, 1900 + number
            prompt = f"The bridge was built in {year}."
            for end, said, spans in (("a", year, []), ("b", wrong, [{"start": 16, "end": 20}])):
                row = {"id": f"{number}{end}", "prompt": prompt, "response": f"It was built in {said}. It is high.",
                       "label": int(end == "b"), "spans": spans, "group": f"bridge {number}",
                       "pair": f"{number}a" if end == "b" else None}  # fmt: skip
                file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def base(labelled, tiny_llama_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    both = torch.cat([torch.eye(32), -torch.eye(32)])
    made = Dictionary(both, torch.zeros(64), both, torch.zeros(32), "relu", hookpoint=HOOKPOINT)
    save_dictionary(replace(made, metadata={"training_tokens": 9}), folder / "dictionary")
    run = DetectorRun(
        dictionary=folder / "dictionary", work=None, model=str(tiny_llama_folder), hookpoint=None, label_text=None,
        detector_id=None, detector_version="1", latents=6, licences=(), jobs=1, seed=0,
    )  # fmt: skip
    run_detector([labelled], folder, run)
    return folder


@pytest.fixture(scope="module")
def trained(labelled, base, tiny_llama_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "detector"
    arguments = ["train", "reader", str(labelled), "-o", str(out), "--base", str(base), "--steps", "6", "--rank", "2"]
    arguments += ["--step-tokens", "60", "--model", str(tiny_llama_folder), "--licence", "answers=MIT"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout), tiny_llama_folder


def test_a_detector_with_a_checking_reader_is_written(trained, base):
    out, said, model = trained
    made = Artifact.from_pretrained(out)
    assert made.checking is not None
    assert made.checking.adapter is not None
    assert made.checking.adapter.rank == 2
    assert made.checking.focus == 2
    assert (out / "checking" / "adapter_model.safetensors").exists()
    assert made.scorer.intercept == Artifact.from_pretrained(base).scorer.intercept  # its own reading stays
    assert said["calibration"] == made.checking.about["calibration"]
    (entry,) = made.checking.about["training"]
    assert (entry["license"], entry["rows"], entry["unfaithful"]) == ("MIT", 180, 90)
    assert 0 < entry["rows_trained_on"] < 140
    detector = Detector.from_pretrained(out, model=model)
    messages = [{"role": "user", "content": "The bridge was built in 1700."}]
    found = detector.score(Example("x", messages, "It was built in 1900. It is high."))
    assert found.detector["reading"] == "checking"
    assert sigmoid(found.intercept + sum(c.contribution for c in found.contributions)) == pytest.approx(found.score)
    assert max(s.score for s in found.sentences) == pytest.approx(found.score)
    assert len(found.sentences) == 2


def test_the_same_command_again_trains_nothing_anew(trained, labelled, base):
    out, _, model = trained
    log = out.with_name("detector.work") / "adapter" / "log.jsonl"
    before = log.read_text()
    arguments = ["train", "reader", str(labelled), "-o", str(out), "--base", str(base), "--steps", "6", "--rank", "2"]
    done = CliRunner().invoke(cli, [*arguments, "--step-tokens", "60", "--model", str(model)])
    assert done.exit_code == 0, done.output
    assert log.read_text() == before


def test_parts_are_whole_groups_and_always_the_same(labelled):
    examples = read_labelled(labelled)
    parts = {part: {e.group for e in in_part(examples, part)} for part in ("training", "calibration", "kept")}
    assert sum(map(len, parts.values())) == 90
    assert not parts["training"] & parts["kept"]
    assert all(part_of(group) == part for part, groups in parts.items() for group in groups)
    few = thinned(examples, 20, 0)
    assert 20 <= len(few) <= 22
    assert {e.id for e in few} == {e.id for e in thinned(examples, 20, 0)}


def test_weights_and_licences_need_their_data_set(tmp_path):
    given = dict(
        base=None, dictionary=None, work=None, model=None, steps=1, step_tokens=1, rank=1, version="1", device="cpu",
        seed=0, focus=2,
    )  # fmt: skip
    assert ReaderRun.of(tmp_path, weights=["a=2.5"], licences=["a=MIT"], **given).weights == {"a": 2.5}
    for weights, licences in ((["a"], []), (["a=x"], []), ([], ["a"])):
        with pytest.raises(InputError):
            ReaderRun.of(tmp_path, weights=weights, licences=licences, **given)
