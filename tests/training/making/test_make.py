from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.training.making.run import balanced

TEXT = (
    "Marlow Castle was built in 1342 by Thomas Bray. It has 14 towers and a moat of 3 metres. Thomas Bray lived there "
    "until 1360. In 1402 the castle was sold to Henry Marsh for 900 pounds. Henry Marsh added 2 towers and a chapel. "
    "The chapel was opened in 1410. Today the castle is open from March to October and closed in winter. About 40,000 "
    "people visit it every year, most of them in August. Entry costs 12 pounds for adults and 6 pounds for children."
)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"title": f"t{i}", "text": TEXT}) + "\n" for i in range(6)))
    return path


def test_rows_come_from_own_texts_and_from_templates(texts, tmp_path):
    out = tmp_path / "made.jsonl"
    done = CliRunner().invoke(cli, ["make-data", str(texts), "-o", str(out), "--rows", "60"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert said["kept"] == len(rows) <= said["made"] <= 60
    assert {row["dataset"] for row in rows} == {"edits", "templates"}
    assert said["unfaithful"] == sum(row["label"] for row in rows) > 0
    assert said["words_alone"].keys() == {"edits", "templates"}
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_same_seed_makes_the_same_rows(texts, tmp_path):
    outs = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for out in outs:
        CliRunner().invoke(cli, ["make-data", str(texts), "-o", str(out), "--rows", "40", "--seed", "5"])
    assert outs[0].read_text() == outs[1].read_text()


def test_nothing_to_make_rows_from_is_refused(tmp_path):
    done = CliRunner().invoke(cli, ["make-data", "--no-templates", "-o", str(tmp_path / "made.jsonl")])
    assert done.exit_code != 0
    assert "neither passages nor templates" in str(done.exception)


def _pair(number, good, bad):
    first = {"id": f"{number}a", "dataset": "d", "prompt": "a b c 1 2", "pair": None}
    return [
        {**first, "response": good, "label": 0},
        {**first, "id": f"{number}b", "response": bad, "label": 1, "pair": f"{number}a"},
    ]


def test_pairs_that_words_alone_tell_apart_are_dropped():
    told = [row for i in range(20) for row in _pair(i, "a b", "a zebra")]
    fair = [row for i in range(20, 60) for row in _pair(i, "a b", "b a")]
    kept = balanced(told + fair, random.Random(0))
    left = [row for row in kept if row["label"] and "zebra" in row["response"]]
    assert len(left) <= 3
    assert sum(row["label"] for row in kept) == len(left) + 40
    assert sum(not row["label"] for row in kept) == 60  # faithful answers stay
