from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from groundwire.errors import InputError
from groundwire.training.data import folds, read_labelled

ROW = {"id": "a", "prompt": "p", "response": "an answer", "label": 1}


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
        return path

    return write


def test_reads_every_field_and_fills_what_is_absent(write):
    full = {**ROW, "spans": [{"start": 3, "end": 9}], "group": 7, "generator": "g", "dataset": "d"}
    bare = {"context": ["c"], "question": "q", "response": "r", "label": 0}
    first, second, third, fourth = read_labelled(write(full, "", bare, {**ROW, "spans": []}, ROW))
    assert (first.spans, first.group, first.generator, first.dataset) == (((3, 9),), "7", "g", "d")
    assert (first.messages[0]["content"], first.response, first.label, first.prompt) == ("p", "an answer", 1, "p")
    assert (second.id, second.label, second.spans, second.generator, second.dataset) == (
        "3",
        0,
        None,
        "unknown",
        "rows",
    )
    assert third.spans == ()
    assert third.group == fourth.group != second.group  # a hash of the prompt


def test_reads_gzip(write):
    plain = write(ROW)
    packed = plain.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_labelled(packed) == read_labelled(plain)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ({**ROW, "label": 2}, 'line 2: "label" is 2'),
        ({**ROW, "label": None}, '"label" is None'),
        ({"prompt": "p", "label": 1}, "line 2"),
        ({"response": "r", "label": 1}, "line 2"),
        ({**ROW, "spans": [{"start": 3, "end": 10}]}, "response of 9 characters"),
        ({**ROW, "spans": [{"start": 3, "end": 3}]}, '"spans" is'),
        ({**ROW, "spans": [{"start": 0.5, "end": 3}]}, '"spans" is'),
        ({**ROW, "spans": [{"start": 0}]}, '"spans" is'),
        ({**ROW, "spans": 3}, '"spans" is'),
        ({**ROW, "group": ["x"]}, '"group" is'),
    ],
)
def test_a_bad_row_is_named_by_its_line(write, row, message):
    with pytest.raises(InputError, match=message):
        read_labelled(write(ROW, row))


def test_a_file_without_rows_is_refused(write, tmp_path):
    with pytest.raises(InputError, match="no rows"):
        read_labelled(write("", ""))
    with pytest.raises(InputError, match="no such file"):
        read_labelled(tmp_path / "absent.jsonl")
    (tmp_path / "broken.jsonl.gz").write_text("not gzip")
    with pytest.raises(InputError, match="gzip"):
        read_labelled(tmp_path / "broken.jsonl.gz")


def test_folds_keep_groups_whole_and_both_labels_everywhere():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 4)
    labels = (rng.random(120) < 0.3).astype(int)
    parts = folds(groups, labels, 5, seed=3)
    assert sorted(np.concatenate([test for _, test in parts])) == list(range(120))
    for train, test in parts:
        assert not set(groups[train]) & set(groups[test])
        assert set(labels[train]) == set(labels[test]) == {0, 1}
    again, other = folds(groups, labels, 5, seed=3), folds(groups, labels, 5, seed=4)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(parts, again, strict=True))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(parts, other, strict=True))


def test_too_few_groups_for_the_folds_are_refused():
    with pytest.raises(InputError, match="label 1 occurs in 2 groups"):
        folds(["a", "a", "b", "c", "d", "e", "b"], [0, 1, 0, 0, 0, 0, 1], 3, seed=0)
