from __future__ import annotations

import json
import tracemalloc

import pytest

from groundwire.batch.columns import Columns
from groundwire.batch.csv_rows import csv_rows
from groundwire.batch.reader import InvalidRow, read_rows
from groundwire.batch.sources import source_of
from groundwire.errors import InputError


def test_quoted_line_breaks_and_json_lists(tmp_path):
    path = tmp_path / "in.csv"
    passages = json.dumps(["one", "two"]).replace('"', '""')
    path.write_bytes(f'\ufeffid,context,question,response\r\n7,"{passages}",q,"a\nb, ""c"""\r\n8,c,q,r\r\n'.encode())
    first, second = read_rows(path)
    assert (first.id, first.line, first.example.response) == ("7", 2, 'a\nb, "c"')
    assert [passage.text for passage in first.example.passages] == ["one", "two"]
    assert (second.id, second.line) == ("8", 4)


def test_bad_rows_are_items_and_reading_goes_on(tmp_path):
    path = tmp_path / "in.csv"
    path.write_bytes(b'prompt,response\np,r\np\np,"a"b\np,\xff\n,r\np,r\n')
    rows = list(read_rows(path))
    assert [isinstance(row, InvalidRow) for row in rows] == [False, True, True, True, True, False]
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7]
    assert rows[1].where == str(path)


def test_a_cell_longer_than_the_librarys_own_limit(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("prompt,response\n" + "p" * 200_000 + ",r\n")
    assert len(next(read_rows(path)).example.messages[0]["content"]) == 200_000


def test_a_header_that_cannot_be_used_is_an_error(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("a,a\n1,2\n")
    with pytest.raises(InputError, match="twice"):
        list(csv_rows(source_of(path), Columns()))


def test_rows_stream(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("prompt,response\n" + ("p" * 3000 + ",r\n") * 1000)
    tracemalloc.start()
    assert sum(1 for _ in read_rows(path)) == 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
