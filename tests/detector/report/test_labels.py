from __future__ import annotations

import json

import pytest

from groundwire.errors import InputError
from groundwire.report.answers import Answer
from groundwire.report.labels import labelled, read_labels
from groundwire.report.rows import Scored


def written(tmp_path, *rows):
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(*names):
    return iter([(Scored(i, name, checked=False), Answer(i, name, "t", label=0)) for i, name in enumerate(names, 1)])


def test_labels_are_joined_by_id_and_replace_others(tmp_path):
    path = written(
        tmp_path, {"id": "b", "label": 1, "label_weight": 4.0}, {"id": "c", "label": None}, {"id": 1, "label": 0}
    )
    found = [answer for _, answer in labelled(pairs("a", "b", "c", 1), read_labels(path))]
    assert [(a.label, a.weight) for a in found] == [(None, None), (1, 4.0), (None, None), (0, None)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": 1, "label": None}], "has no label"),
        ([{"label": 1}], "row 1 of"),
        ([{"id": 1, "label": 1}, {"id": 1, "label": 1}], "row 2 of"),
        ([{"id": 1, "label": "yes"}], "the label is 'yes'"),
        ([{"id": 1, "label": 1, "label_weight": 0}], "the label_weight is 0"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path, rows, said):
    with pytest.raises(InputError, match=said):
        read_labels(written(tmp_path, *rows))


def test_labels_of_other_answers_are_refused(tmp_path):
    labels = read_labels(written(tmp_path, {"id": "x", "label": 1}))
    with pytest.raises(InputError, match="no answer has the labelled id 'x'"):
        list(labelled(pairs("a"), labels))
    with pytest.raises(InputError, match="several answers"):
        list(labelled(pairs("x", "x"), labels))
