from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.training.scored import check_labels, read_answers, score_answers

ROW = {"prompt": "The bridge opened in 1931.", "response": "It opened in 1931.", "label": 0}


@pytest.fixture
def write(tmp_path):
    def write(*lines, name="mine.jsonl"):
        path = tmp_path / name
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.jsonl.gz"])
def test_rows_are_read_with_their_group_and_data_set(write, name):
    path = write(
        ROW, {**ROW, "label": 1, "group": 7, "dataset": "other"}, "", {**ROW, "label": 1, "prompt": "x"}, name=name
    )
    answers, faults = read_answers([path])
    assert faults == []
    assert [a.label for a in answers] == [0, 1, 1]
    assert [a.dataset for a in answers] == ["mine", "other", "mine"]
    assert answers[1].group == "7"
    assert len({a.group for a in answers}) == 3
    again, _ = read_answers([write(ROW, {**ROW, "response": "In 1931.", "label": 1})])
    assert again[0].group == again[1].group == answers[0].group  # rows of one prompt are one group


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{not json", "line 2"),
        ('{"prompt": "p", "response": "r"}', '"label" is None'),
        ('{"prompt": "p", "response": "r", "label": "yes"}', "\"label\" is 'yes'"),
        ('{"prompt": "p", "label": 1}', '"response" is missing'),
        ('{"prompt": "p", "response": "r", "label": 1, "group": [1]}', '"group" is [1]'),
        ("[1, 2]", "list"),
        ("[" * 5000, "line 2"),
    ],
)
def test_a_line_that_cannot_be_read_is_counted_and_the_others_stay(write, line, said):
    answers, faults = read_answers([write(ROW, line, {**ROW, "label": 1})])
    assert len(answers) == 2
    assert len(faults) == 1
    assert "line 2" in faults[0]
    assert said in faults[0]


def test_bytes_that_are_no_text_spoil_one_line(tmp_path):
    lines = [json.dumps(ROW).encode(), b'{"label": 1, "prompt": "\xff"}', json.dumps({**ROW, "label": 1}).encode()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    answers, faults = read_answers([tmp_path / "a.jsonl"])
    assert (len(answers), len(faults)) == (2, 1)


def test_what_cannot_be_fitted_to_is_refused(write, tmp_path):
    with pytest.raises(InputError, match=r"no row of .* has a label"):
        read_answers([write({"prompt": "p", "response": "r"}, {"prompt": "q", "response": "r", "label": None})])
    with pytest.raises(InputError, match="2 rows, all with label 0"):
        read_answers([write(ROW, ROW)])
    with pytest.raises(InputError, match=r"(?s)no usable row.*line 1"):
        read_answers([write({"prompt": "p", "label": 1})])
    with pytest.raises(InputError, match="cannot read"):
        read_answers([tmp_path / "none.jsonl"])
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROW).encode() * 50)[:-9])
    with pytest.raises(InputError, match="cannot read"):
        read_answers([tmp_path / "torn.jsonl.gz"])
    with pytest.raises(InputError, match="no row that could be checked"):
        check_labels([])


def test_scores_are_the_detector_s_and_what_it_did_not_check_is_counted(write):
    lines = [
        {**ROW, "response": response, "label": label, "group": f"g{i}"}
        for i, (response, label) in enumerate(
            [
                ("It opened in 1931.", 0),
                ("", 1),
                ("It opened in Lisbon.", 1),
                ("The passages do not say.", 0),
                ("A king came.", 1),
            ]
        )
    ]
    answers, _ = read_answers([write(*lines)])
    detector = fake_detector()
    scored = score_answers(detector, answers)
    assert dict(scored.not_checked) == {"empty_response": 1, "abstained": 1}
    assert scored.labels.tolist() == [0, 1, 1]
    assert scored.groups.tolist() == ["g0", "g2", "g4"]
    assert set(scored.datasets) == {"mine"}
    expected = [d.logit for d in detector.score_batch([a.example for a in answers]) if d.checked]
    np.testing.assert_array_equal(scored.logits, expected)
