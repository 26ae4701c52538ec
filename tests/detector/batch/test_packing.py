from __future__ import annotations

import gzip
import json

import pytest

from groundwire.batch.packing import check_packable, pack
from groundwire.batch.paths import partial_path
from groundwire.batch.reader import read_rows
from groundwire.batch.sources import opened, source_of
from groundwire.batch.writer import PartialWriter
from groundwire.errors import InputError
from groundwire.types import Contribution, Detection, Span, Term, TokenScore, Verdict

EVIDENCE = {"passage_id": "a", "start": 0, "end": 1, "text": "e", "similarity": 0.5}
DETECTION = Detection(
    "checked",
    score=0.7,
    logit=0.8,
    intercept=0.1,
    contributions=(Contribution(Term("latent", "x", 3), 0.7, "t", 2),),
    spans=(Span(0, 2, "ab", 0.9, EVIDENCE), Span(3, 4, "c", 0.8)),
    tokens=(TokenScore("ab", 0, 2, 0.9),),
    unlike_training={"distance": 1.0, "quantile": 0.5, "flag": False},
    detector={"name": "d"},
)
ROWS = [
    {"id": "é", "hallucination": Verdict(DETECTION, 0.5, True, "annotate").to_dict(tokens=True)},
    {
        "id": "b",
        "hallucination": Verdict(
            Detection("not_checked", "invalid_input", detail="line 2"), 0.5, None, "annotate"
        ).to_dict(),
    },
]


def write(target) -> None:
    with PartialWriter(target) as writer:
        for row in ROWS:
            writer.write(row)
        writer.finish()


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.jsonl.zst"])
def test_compressed_rows_read_back(tmp_path, name):
    pytest.importorskip("zstandard")
    write(tmp_path / name)
    with opened(source_of(tmp_path / name)) as stream:
        assert [json.loads(line) for line in stream] == ROWS
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_keeps_spans_and_terms_nested(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    about = found[0]["hallucination"].pop("detector")
    assert json.loads(about) == {"name": "d"}
    wanted = {k: v for k, v in ROWS[0]["hallucination"].items() if k != "detector"}
    assert found[0] == {"id": "é", "hallucination": {"detail": None, "passage_windows": None} | wanted}
    assert found[1]["hallucination"]["detail"] == "line 2"
    assert found[1]["hallucination"]["spans"] == []


def test_where_packing_fails_the_rows_are_kept(tmp_path):
    rows, path = tmp_path / "rows", tmp_path / "out.parquet"
    pytest.importorskip("pyarrow")
    rows.write_text('{"id": 1, "hallucination": ')
    with pytest.raises(json.JSONDecodeError):
        pack(rows, path, source_of(path))
    assert rows.exists()
    assert not path.exists()
    assert not partial_path(path).exists()


def test_csv_cannot_hold_verdicts():
    with pytest.raises(InputError, match="cannot hold spans"):
        check_packable(source_of("out.csv"))


def test_gzipped_rows_of_several_members_are_read(tmp_path):
    line = b'{"prompt": "p", "response": "r"}\n'
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(line) + gzip.compress(line))
    assert len(list(read_rows(tmp_path / "in.jsonl.gz"))) == 2
