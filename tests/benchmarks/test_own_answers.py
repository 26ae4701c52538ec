from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.prompts import grounded_messages
from groundwire.training.data import read_labelled
from groundwire.types import Passage

DATA = Path(__file__).parents[2] / "benchmarks" / "own_answers"


@pytest.fixture
def own(script):
    return script("own_answers")


@pytest.fixture(scope="module")
def rows():
    with open(DATA / "answers.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def question(number):
    return {"id": f"q-{number}", "question": f"What is {number}?", "context": ["One is a number."], "group": "numbers"}


def label(*unfaithful, abstained=False):
    return {"id": "q-0", "unfaithful": list(unfaithful), "abstained": abstained, "note": ""}


def test_answers_come_in_order_and_only_those_that_lack(own):
    questions = [question(number) for number in range(10)]
    every = list(own.generate(fake_detector(), questions, set()))
    assert [row["id"] for row in every] == [row["id"] for row in questions]
    assert all(row["response"] and row["finish_reason"] in ("stop", "length") for row in every)
    assert not any("score" in row for row in every)
    rest = list(own.generate(fake_detector(), questions, {row["id"] for row in every[:9]}))
    assert rest == every[9:]


def test_an_interrupted_run_continues(own, tmp_path, monkeypatch):
    monkeypatch.setattr(own.Detector, "from_pretrained", fake_detector)
    (tmp_path / "questions.jsonl").write_text("".join(own.as_line(question(number)) for number in range(3)))
    arguments = ["--folder", str(tmp_path), "generate"]
    assert CliRunner().invoke(own.main, arguments, catch_exceptions=False).exit_code == 0
    whole = (tmp_path / "answers.jsonl").read_text()
    (tmp_path / "answers.jsonl").write_text(whole.splitlines(keepends=True)[0])
    CliRunner().invoke(own.main, arguments, catch_exceptions=False)
    assert (tmp_path / "answers.jsonl").read_text() == whole


def test_half_is_greedy_and_a_pair_is_never_alike(own):
    temperatures = [own.sampling_of(number).temperature for number in range(152)]
    pairs = list(zip(temperatures[::2], temperatures[1::2], strict=True))
    assert Counter(pairs) == {(0.0, own.TEMPERATURE): 38, (own.TEMPERATURE, 0.0): 38}


def test_parts_become_spans_each_after_the_one_before(own):
    row = own.labelled({"id": "q-0", "response": "É two. É two."}, label("two", "two"))
    assert row["spans"] == [{"start": 2, "end": 5}, {"start": 9, "end": 12}]
    assert (row["label"], row["abstained"]) == (1, False)


def test_relabelling_replaces(own):
    row = own.labelled({"id": "q-0", "response": "The passages do not say."}, label("say"))
    row = own.labelled(row, label(abstained=True))
    assert (row["label"], row["spans"], row["abstained"]) == (0, [], True)


@pytest.mark.parametrize("wrong", [label("three"), label("two", "one"), label(""), label("one", abstained=True)])
def test_a_label_that_does_not_fit_is_refused(own, wrong):
    with pytest.raises(InputError):
        own.labelled({"id": "q-0", "response": "one two"}, wrong)


def test_the_command_writes_the_labels(own, tmp_path):
    (tmp_path / "answers.jsonl").write_text(own.as_line({"id": "q-0", "response": "one two"}))
    (tmp_path / "labels.jsonl").write_text(own.as_line(label("two")))
    run = CliRunner().invoke(own.main, ["--folder", str(tmp_path), "label"], catch_exceptions=False)
    assert run.output == "1 of 1 unfaithful\n"
    assert own.read(tmp_path / "answers.jsonl")[0]["spans"] == [{"start": 4, "end": 7}]


def test_kappa_is_agreement_beyond_chance(own):
    a, b = np.array([1] * 25 + [0] * 25), np.array([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15)
    assert own.kappa(a, b) == pytest.approx(0.4)
    assert own.kappa(a, a) == 1
    assert np.isnan(own.kappa(a[:5], a[:5]))


def test_the_interval_of_kappa_draws_whole_groups(own):
    a, b = np.array([1, 0, 1, 0] * 10), np.array([1, 0, 0, 0] * 10)
    low, high = own.kappa_interval(a, b, [str(row // 2) for row in range(40)])
    assert low < own.kappa(a, b) < high < 1
    one = own.kappa_interval(a, b, ["all"] * 40)
    assert one == pytest.approx((own.kappa(a, b),) * 2)


def test_a_second_reading_replaces_the_labels_and_is_refused_where_it_is_of_other_rows(own):
    row = {"id": "q-0", "response": "one two", "label": 0, "spans": [], "abstained": False}
    assert own.read_again([row], [{"id": "q-0", "label": 1, "reason": ""}]) == [{**row, "label": 1, "spans": None}]
    with pytest.raises(InputError):
        own.read_again([row], [{"id": "q-1", "label": 1, "reason": ""}])


def test_the_readme_states_the_agreement_of_the_committed_readings(own, rows, tmp_path):
    run = CliRunner().invoke(own.main, ["second", str(tmp_path / "second.jsonl")], catch_exceptions=False)
    assert run.output.strip() in " ".join((DATA / "README.md").read_text(encoding="utf-8").split())
    examples = read_labelled(tmp_path / "second.jsonl")
    again = own.read(DATA / "second_reader.jsonl")
    assert [example.label for example in examples] == [reading["label"] for reading in again]
    assert all(reading["reason"] for reading in again)


def test_the_committed_answers_are_the_labels_merged(own, rows):
    labels = own.read(DATA / "labels.jsonl")
    assert [own.labelled(row, found) for row, found in zip(rows, labels, strict=True)] == rows
    assert [row["id"] for row in labels] == [row["id"] for row in rows]


def test_the_committed_answers_read_as_labelled_rows_with_the_prompt_that_made_them(own, rows):
    examples = read_labelled(DATA / "answers.jsonl")
    for asked, example in zip(own.read(DATA / "questions.jsonl"), examples, strict=True):
        passages = [Passage(text) for text in asked["context"]]
        assert list(example.messages) == grounded_messages(asked["question"], passages)
    assert Counter(Counter(example.group for example in examples).values()) == {2: 75}


def test_the_readme_names_every_article_and_the_counts(rows):
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    one_line = " ".join(readme.split())
    assert [row["group"] for row in rows if row["group"] not in one_line] == []
    unfaithful, abstained = (sum(row[key] for row in rows) for key in ("label", "abstained"))
    assert f"{unfaithful} unfaithful, {len(rows) - unfaithful} faithful, {abstained} of these abstentions" in one_line
