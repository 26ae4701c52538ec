from __future__ import annotations

import pytest

from groundwire.batch.appended import Appended
from groundwire.batch.kept import count_lines, finished_rows, whole_row, whole_rows
from groundwire.batch.output import line_of
from groundwire.errors import InputError

LINE = line_of(1, {"status": "checked"})


@pytest.mark.parametrize(
    "line", [LINE[:-1], LINE[:20], b"\n", b"\0\0}\n", b"[1]\n", b'{"id": 1}\n', b'{"hallucination": {}}\n']
)
def test_what_is_no_whole_row_is_none(line):
    assert whole_row(line) is None


def test_rows_up_to_the_first_torn_one(tmp_path):
    path = tmp_path / "out.jsonl.partial"
    path.write_bytes(LINE * 3 + b'{"id": 4, \0\0\0\n' + LINE)
    file = Appended(path)
    found = list(whole_rows(file))
    assert [end for end, _ in found] == [len(LINE) * i for i in (1, 2, 3)]
    assert found[0][1] == {"id": 1, "hallucination": {"status": "checked"}}
    assert count_lines(file) == 5
    file.close()


def test_a_finished_file_that_cannot_be_read_is_an_input_error(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "out.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(InputError, match="cannot read"):
        list(finished_rows(path))
