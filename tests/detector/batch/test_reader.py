from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import threading
import tracemalloc

import pytest

from groundwire.batch.reader import ExampleRow, InvalidRow, check_source, count_rows, read_rows
from groundwire.errors import InputError

GOOD = {"id": "a", "prompt": "p", "response": "r"}


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "in.jsonl"


def test_line_numbers_count_blank_lines_and_name_rows_without_id(source):
    source.write_bytes(lines(GOOD) + b"\n  \r\n" + lines({"prompt": "p", "response": "r"}))
    rows = list(read_rows(source))
    assert [(row.line, row.id, row.example.id) for row in rows] == [(1, "a", "a"), (4, "line-4", "line-4")]
    assert count_rows(source) == 2


def test_byte_order_mark_carriage_returns_and_a_missing_last_line_feed_are_tolerated(source):
    source.write_bytes(b"\xef\xbb\xbf" + lines(GOOD).replace(b"\n", b"\r\n") + lines(GOOD).rstrip())
    assert [type(row) for row in read_rows(source)] == [ExampleRow, ExampleRow]


def test_unicode_line_separators_do_not_end_a_row(source):
    row = GOOD | {"response": "a\u2028b\u0085c\x1dd"}
    source.write_bytes(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    assert next(read_rows(source)).example.response == row["response"]


def test_whole_number_ids_stay_as_given_beside_the_example(source):
    source.write_bytes(lines(GOOD | {"id": 7}))
    row = next(read_rows(source))
    assert (row.id, row.example.id) == (7, "7")


@pytest.mark.parametrize(
    ("line", "row_id", "message"),
    [
        (b'{"id": "b", "prompt"\n', "line-2", "not readable JSON"),
        (b"\xff\xfe\n", "line-2", "not readable JSON"),
        (b"[" * 100_000 + b"\n", "line-2", "not readable JSON"),
        (b"1" * 10_000 + b"\n", "line-2", "not readable JSON"),
        (b"[1]\n", "line-2", "the row is list"),
        (b'{"id": "b", "prompt": "p"}\n', "b", '"response" is missing'),
        (b'{"id": [1], "prompt": "p", "response": "r"}\n', "line-2", '"id" is list'),
        (b'{"id": "\\ud800", "prompt": "p", "response": "r"}\n', "line-2", "surrogate"),
    ],
)
def test_a_bad_line_is_an_item_and_reading_goes_on(source, line, row_id, message):
    source.write_bytes(lines(GOOD) + line + lines(GOOD))
    first, bad, last = read_rows(source)
    assert isinstance(first, ExampleRow)
    assert isinstance(last, ExampleRow)
    assert isinstance(bad, InvalidRow)
    assert (bad.line, bad.id, bad.reason) == (2, row_id, "invalid_input")
    assert message in bad.error.given


def test_a_row_without_passages_has_its_own_reason(source):
    source.write_bytes(lines({"id": 1, "context": [], "question": "q", "response": "r"}))
    assert next(read_rows(source)).reason == "no_passages"


def test_standard_input(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(lines(GOOD, GOOD)), encoding="ascii")
    monkeypatch.setattr("sys.stdin", stdin)
    check_source("-")
    assert count_rows("-") is None
    assert len(list(read_rows("-"))) == 2
    assert not stdin.closed


def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_source(pipe)
    assert count_rows(pipe) is None
    writer = threading.Thread(target=pipe.write_bytes, args=(lines(GOOD),))
    writer.start()
    assert len(list(read_rows(pipe))) == 1
    writer.join()


def test_reading_is_lazy():
    rows = read_rows("/dev/zero/no/such/file")
    with pytest.raises(InputError):
        next(rows)


@pytest.mark.parametrize("read", [lambda path: next(read_rows(path)), check_source])
def test_missing_files_and_folders_are_input_errors(tmp_path, read):
    for path, message in [(tmp_path / "none.jsonl", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(InputError, match=message) as caught:
            read(path)
        assert caught.value.remedy


@pytest.mark.parametrize("name", ["in.jsonl", "in.jsonl.gz", "in.jsonl.zst", "in.csv", "in.csv.gz", "in.parquet"])
def test_every_format_streams_the_same_rows(tmp_path, name):
    zstandard, pa = pytest.importorskip("zstandard"), pytest.importorskip("pyarrow")
    rows = [
        {"id": str(i), "prompt": random.Random(i).randbytes(1500).hex() + f"\n{i}", "response": "r"}
        for i in range(1000)
    ]
    size = sum(len(row["prompt"]) for row in rows)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet").write_table(
            pa.Table.from_pylist(rows), tmp_path / name, row_group_size=100
        )
    else:
        cells = io.StringIO()
        if ".csv" in name:
            sheet = csv.DictWriter(cells, ["id", "prompt", "response"])
            sheet.writeheader()
            sheet.writerows(rows)
        data = cells.getvalue().encode() or lines(*rows)
        packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(name.rsplit(".", 1)[1], bytes)(data)
        (tmp_path / name).write_bytes(packed)
    ids, peak = [], 0
    tracemalloc.start()
    for row in read_rows(tmp_path / name):
        assert isinstance(row, ExampleRow)
        assert row.example.messages[0]["content"] == rows[len(ids)]["prompt"]
        ids.append(row.id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 2_000_000
    assert ids == [row["id"] for row in rows]
    assert peak < size / 2


@pytest.mark.parametrize("name", ["in.jsonl.gz", "in.jsonl.zst"])
def test_a_truncated_file_ends_in_an_error(tmp_path, name):
    zstandard = pytest.importorskip("zstandard")
    data = lines(*(GOOD | {"id": i} for i in range(5_000)))
    packed = gzip.compress(data) if name.endswith("gz") else zstandard.compress(data)
    (tmp_path / name).write_bytes(packed[: len(packed) * 3 // 4])
    rows = read_rows(tmp_path / name)
    with pytest.raises(InputError, match="cannot read"):
        list(rows)
