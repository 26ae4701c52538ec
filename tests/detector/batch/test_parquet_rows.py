from __future__ import annotations

import pytest

from groundwire.batch.columns import Columns
from groundwire.batch.parquet_rows import parquet_count, parquet_rows
from groundwire.batch.reader import InvalidRow, count_rows, read_rows
from groundwire.batch.sources import source_of
from groundwire.errors import InputError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write(path, rows: list[dict], **options: int) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), path, **options)


def test_lists_and_objects_are_read_as_they_come(tmp_path):
    path = tmp_path / "in.parquet"
    rows = [{"id": i, "context": ["a", "b"], "question": "q", "answer": "r", "big": "x"} for i in range(600)]
    write(path, rows, row_group_size=100)
    found = list(read_rows(path, Columns(response="answer")))
    assert [row.id for row in found] == list(range(600))
    assert [row.line for row in found] == list(range(1, 601))
    assert [passage.text for passage in found[0].example.passages] == ["a", "b"]
    assert count_rows(path) == 600


def test_columns_that_do_not_matter_are_not_read(tmp_path):
    path = tmp_path / "in.parquet"
    write(path, [{"prompt": "p", "response": "r", "generator": "g", "embedding": [0.0] * 8}])
    assert list(parquet_rows(source_of(path), Columns())) == [(1, {"prompt": "p", "response": "r", "generator": "g"})]
    assert parquet_count(source_of(path)) == 1
    (row,) = read_rows(path)
    assert row.about == {"generator": "g"}


def test_a_bad_row_is_an_item(tmp_path):
    path = tmp_path / "in.parquet"
    write(path, [{"prompt": "p", "response": "r"}, {"prompt": "p", "response": None}])
    good, bad = read_rows(path)
    assert isinstance(bad, InvalidRow)
    assert (bad.line, bad.where, good.id) == (2, str(path), "line-1")


@pytest.mark.parametrize("read", [count_rows, lambda path: list(read_rows(path))])
def test_a_broken_file_is_an_input_error(tmp_path, read):
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot read"):
        read(path)


def test_a_named_column_must_exist(tmp_path):
    path = tmp_path / "in.parquet"
    write(path, [{"prompt": "p", "response": "r"}])
    with pytest.raises(InputError, match="--response-column"):
        list(read_rows(path, Columns(response="answer")))
