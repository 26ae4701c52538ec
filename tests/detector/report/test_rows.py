from __future__ import annotations

import json
from typing import get_args, get_type_hints

import pytest

from groundwire.errors import InputError
from groundwire.report.rows import KINDS, parse_scored, read_scored
from groundwire.types import Term


def test_every_row_the_product_writes_is_read_back(mixed):
    scored, _ = mixed
    rows = list(read_scored(scored))
    written = [json.loads(line)["hallucination"] for line in scored.read_text("utf-8").splitlines()]
    assert [row.line for row in rows] == list(range(1, 22))
    assert [row.score for row in rows] == [w["score"] for w in written]
    assert [row.flagged for row in rows] == [bool(w["flagged"]) for w in written]
    assert [[s.to_dict() for s in row.spans] for row in rows] == [w["spans"] for w in written]
    assert [[t.to_dict() for t in row.terms] for row in rows] == [w["terms"] for w in written]
    assert rows[-1].checked is False
    assert rows[-1].reason == "empty_response"


def test_the_kinds_are_those_of_terms():
    assert get_args(get_type_hints(Term)["kind"]) == KINDS


def test_what_newer_detectors_add_is_read_where_it_is(verdict):
    assert (parse_scored(verdict(), 1).shares, parse_scored(verdict(), 1).unlike) == (None, None)
    more = {
        "shares": {"latent": 1.0, "residual": -0.5},
        "unlike_training": {"distance": 3, "quantile": None, "flag": True},
    }
    row = parse_scored(verdict(**more), 1)
    assert row.shares == {"latent": 1.0, "residual": -0.5}
    assert (row.unlike.flag, row.unlike.distance, row.unlike.quantile) == (True, 3.0, None)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"status": "fine"}, "status"),
        ({"score": None}, "score"),
        ({"score": 1.2}, "score"),
        ({"threshold": "high"}, "threshold"),
        ({"flagged": None}, "flagged"),
        ({"spans": None}, "spans"),
        ({"spans": [{"start": 5, "end": 2, "text": "", "score": 1, "evidence": None}]}, r"spans\[0\]"),
        ({"spans": [{"start": 0, "end": 1, "text": "T", "score": 1, "evidence": {"text": 1}}]}, "evidence.text"),
        ({"terms": [{"kind": "magic", "name": "x", "contribution": 1}]}, "kind"),
        ({"terms": [{"kind": "latent", "name": "x", "contribution": "1"}]}, "contribution"),
        ({"shares": {"latent": "all"}}, "shares.latent"),
        ({"unlike_training": {"distance": 1}}, "flag"),
        ({"status": "not_checked", "reason": None}, "reason"),
    ],
)
def test_a_field_no_product_wrote_is_refused_by_name(verdict, fields, named):
    with pytest.raises(InputError, match=rf"line 7\.hallucination\.?.*{named}"):
        parse_scored(verdict(**fields), 7)


@pytest.mark.parametrize("row", [None, [], 3, {"id": 1}, {"id": True, "hallucination": {}}, {"hallucination": {}}])
def test_a_row_of_another_kind_is_refused(row):
    with pytest.raises(InputError, match="line 7"):
        parse_scored(row, 7)


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_line_that_is_no_json_is_named(tmp_path, verdict, line):
    path = tmp_path / "scored.jsonl"
    path.write_bytes(json.dumps(verdict()).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(InputError, match="line 3 is no readable JSON"):
        list(read_scored(path))


def test_a_byte_order_mark_is_tolerated(tmp_path, verdict):
    path = tmp_path / "scored.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(verdict()).encode())
    assert len(list(read_scored(path))) == 1


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        list(read_scored(tmp_path / "none.jsonl"))
