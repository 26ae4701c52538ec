from __future__ import annotations

import pytest

from groundwire.batch.columns import Columns, cells, check_columns
from groundwire.batch.rows import parse_row
from groundwire.errors import InputError


def test_named_columns_take_the_fields_place():
    columns = Columns(id="key", question="ask", context="docs", response="answer")
    row = {"key": 4, "ask": "q", "docs": ["c"], "answer": "a", "response": "other", "prompt": "other"}
    example = parse_row(columns.read(row))
    assert (example.id, example.response, example.passages[0].text) == ("4", "a", "c")


def test_a_named_prompt_stands_before_messages():
    read = Columns(prompt="text").read({"text": "p", "messages": [{"role": "user", "content": "m"}], "response": "r"})
    assert parse_row(read, default_id="1").messages[0]["content"] == "p"


@pytest.mark.parametrize(
    ("context", "texts"),
    [('["a", "b"]', ["a", "b"]), ('[{"text": "a"}]', ["a"]), ("[1] as cited", ["[1] as cited"]), ("[1]", ["[1]"])],
)
def test_lists_written_as_json_are_read_and_other_texts_kept(context, texts):
    example = parse_row(Columns().read({"id": 1, "context": context, "question": "q", "response": "r"}))
    assert [passage.text for passage in example.passages] == texts


def test_empty_cells_are_absent_but_for_responses_and_passages():
    assert cells({"id": "", "prompt": "", "context": "", "response": ""}) == {
        "id": None,
        "prompt": None,
        "context": "",
        "response": "",
    }


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(InputError, match="no column 'answer' \\(--response-column\\)"):
        check_columns(Columns(response="answer"), {"id", "reply"}, "in.csv")
