from __future__ import annotations

import random

import pytest

from groundwire.training.data import read_labelled
from groundwire.training.making.compose import changed, mistake, redrawn, rows
from groundwire.training.making.run import TEMPLATES
from groundwire.training.making.template import Template, read_templates
from tests.training.making.test_template import RECORD


@pytest.fixture(scope="module")
def made():
    return list(rows(list(read_templates(TEMPLATES))[:12], random.Random(0), 2))


def test_spans_lie_inside_and_only_unfaithful_answers_have_some(made):
    for row in made:
        assert bool(row["spans"]) == bool(row["label"])
        for span in row["spans"]:
            piece = row["response"][span["start"] : span["end"]]
            assert piece
            assert piece == piece.strip()


def test_a_pair_shares_its_prompt_and_all_but_the_mistake(made):
    by_id = {row["id"]: row for row in made}
    assert len(by_id) == len(made)
    pairs = [(by_id[row["pair"]], row) for row in made if row["pair"] in by_id]
    assert len(pairs) > 50
    for good, bad in pairs:
        assert (good["prompt"], good["label"], bad["label"]) == (bad["prompt"], 0, 1)
        assert good["response"] != bad["response"]


def test_no_answer_is_right_and_wrong_of_one_prompt(made):
    labels: dict[tuple[str, str], set[int]] = {}
    for row in made:
        labels.setdefault((row["prompt"], row["response"]), set()).add(row["label"])
    assert all(len(found) == 1 for found in labels.values())


def test_another_drawing_s_answers_are_wrong_of_this_one_and_say_where(made):
    crossed = [row for row in made if row["kind"] == "crossed"]
    assert len(crossed) > 20
    by_id = {row["id"]: row for row in made}
    assert all(
        row["spans"] and row["response"] != by_id[row["pair"]]["response"] for row in crossed if row["pair"] in by_id
    )


def test_rows_are_what_training_reads(made, tmp_path):
    import json

    path = tmp_path / "made.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    read = read_labelled(path)
    assert [e.pair for e in read] == [row["pair"] for row in made]
    assert {e.group for e in read} == {row["group"] for row in made}


def test_mistakes_are_of_every_way_and_never_the_right_words():
    template = Template.of(RECORD)
    values, rng = template.draw(random.Random(1)), random.Random(0)
    kinds = set()
    for _ in range(60):
        for fact in template.facts:
            found = mistake(template, fact, fact.right[0], values, rng)
            assert found is not None
            assert found.spans
            kinds.add(found.kind)
    assert kinds == {"number", "redrawn", "trend"}


def test_drawing_anew_changes_what_it_is_asked_to():
    template = Template.of(RECORD)
    values = template.draw(random.Random(1))
    other = redrawn(template, values, random.Random(2), 1, among=["weeks"])
    assert other["weeks"] != values["weeks"] or other["unpaid"] == values["unpaid"]
    assert {k: v for k, v in other.items() if k not in ("weeks", "unpaid")} == {
        k: v for k, v in values.items() if k not in ("weeks", "unpaid")
    }


@pytest.mark.parametrize(
    ("right", "wrong", "marked"),
    [
        ("It takes 20 days.", "It takes 21 days.", ["21"]),
        ("Anna met Ben in May.", "Ben met Anna in May.", ["Ben", "Anna"]),
        ("It does not apply to staff.", "It does apply to staff.", ["does"]),
        ("Open on Monday.", "The museum has a cafe.", ["The museum has a cafe."]),
    ],
)
def test_what_differs_is_marked_in_whole_words(right, wrong, marked):
    assert [wrong[a:b] for a, b in changed(right, wrong)] == marked
