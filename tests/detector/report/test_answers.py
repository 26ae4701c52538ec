from __future__ import annotations

import json
from pathlib import Path

import pytest

from groundwire.errors import InputError
from groundwire.report.answers import join, read_answers
from groundwire.report.rows import parse_scored, read_scored

ROW = {"id": 1, "prompt": "Passage", "response": "The bridge."}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def test_texts_labels_and_columns_come_with_a_row(tmp_path):
    fields = {"label": 1, "group": 7, "generator": "m", "share": 0.5, "seen": True, "other": None, "list": [1]}
    (answer,) = read_answers(write(tmp_path / "a.jsonl", ROW | fields))
    assert (answer.id, answer.text, answer.label, answer.group) == (1, "The bridge.", 1, "7")
    assert answer.messages == [{"role": "user", "content": "Passage"}]
    found = {key: answer.columns[key] for key in ("generator", "share", "seen")}
    assert found == {"generator": "m", "share": "0.5", "seen": "true"}
    assert not {"other", "list"} & set(answer.columns)


@pytest.mark.parametrize(("label", "read"), [(0, 0), (1, 1), (1.0, 1), (False, 0), (None, None)])
def test_labels_are_0_1_or_none(tmp_path, label, read):
    (answer,) = read_answers(write(tmp_path / "a.jsonl", ROW | {"label": label}))
    assert answer.label == read


@pytest.mark.parametrize("label", [2, "1", "unfaithful", 0.5, [1]])
def test_another_label_is_refused_with_its_line(tmp_path, label):
    with pytest.raises(InputError, match="line 2: the label is"):
        list(read_answers(write(tmp_path / "a.jsonl", ROW, ROW | {"label": label})))


def test_blank_unreadable_and_nameless_rows_join_as_they_were_scored(score):
    nameless = {key: value for key, value in ROW.items() if key != "id"}
    scored, answers = score(ROW, "", "{", nameless, "3", {"id": 5, "response": 3})
    pairs = list(join(read_scored(scored), read_answers(answers)))
    assert [(row.id, answer.line) for row, answer in pairs] == [
        (1, 1),
        ("line-3", 3),
        ("line-4", 4),
        ("line-5", 5),
        (5, 6),
    ]
    assert [answer.text for _, answer in pairs] == ["The bridge.", None, "The bridge.", None, None]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the scores go on at line 1"),
        ([ROW, ROW], "the answers go on at line 2"),
        ([ROW | {"id": 2}], "line 1 of the scores has id 1, line 1 of the answers 2"),
        ([ROW | {"id": "1"}], "has id 1, line 1 of the answers '1'"),
        ([ROW | {"response": "A tunnel, not a bridge."}], "characters 4 to 10 of the answer are"),
        ([ROW | {"response": None}], "was checked, and line 1 of the answers cannot be read"),
    ],
)
def test_a_file_that_was_not_the_one_scored_is_refused(tmp_path, verdict, rows, message):
    answers = read_answers(write(tmp_path / "a.jsonl", *rows))
    with pytest.raises(InputError, match=message) as raised:
        list(join([parse_scored(verdict(), 1)], answers))
    assert raised.value.remedy == "pass the very file that was scored, unchanged"
