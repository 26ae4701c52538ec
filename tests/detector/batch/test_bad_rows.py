"""Many rows, some of them broken in every way there is: each is told by its line and kind, all others are scored."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from groundwire.batch.paths import partial_path, run_path
from groundwire.batch.score import score_file
from groundwire.batch.windows import ROWS
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError

PASSAGE, QUESTION = "The bridge opened in 1931.", "When did it open?"

# What stands on the line, and what is said of it. {} is where the row's number goes.
BROKEN: dict[bytes, str] = {
    b'{"id": {}, "prompt": "p", "resp': "not readable JSON: ",
    b'{"id": {}, "prompt": "p" "response": "r"}': "not readable JSON: Expecting ',' delimiter",
    b'{"id": {}, "prompt": "\xff", "response": "r"}': "not readable JSON: 'utf-8' codec",
    b'["{}", "p", "r"]': "the row is list",
    b'{"id": {}, "prompt": "p"}': '"response" is missing',
    b'{"id": {}, "prompt": "p", "response": ["r"]}': '"response" is list',
    b'{"id": {}, "response": "r"}': "the row has no prompt",
    b'{"id": {}, "messages": [], "response": "r"}': '"messages" is list []',
    b'{"id": {}, "messages": [{"content": "p"}], "response": "r"}': 'message 0: "role" is missing',
    b'{"id": {}.5, "prompt": "p", "response": "r"}': '"id" is float',
    b'{"id": {}, "prompt": "p", "response": "\\ud800"}': '"response" holds half a surrogate pair',
    b'{"id": {}, "context": ["p", 3], "question": "q", "response": "r"}': 'passage 1: "text" is int 3',
}


@pytest.fixture
def detector(slow: Any) -> Any:
    return slow.Remembering(fake_detector())


def good(i: int) -> bytes:
    response = "The bridge opened in 1931." if i % 2 else "It opened in 1902."
    return json.dumps({"id": i, "context": [PASSAGE], "question": QUESTION, "response": response}).encode()


def broken(i: int, kind: bytes) -> bytes:
    return kind.replace(b"{}", str(i).encode(), 1) if b"{}" in kind else kind


@pytest.fixture
def ten_thousand(tmp_path: Path) -> tuple[Path, dict[int, bytes]]:
    """A file of 10,000 rows, and which lines are broken in which way: 25 in each."""
    path = tmp_path / "in.jsonl"
    kinds = [kind for kind in BROKEN for _ in range(25)]
    bad = dict(zip(random.Random(0).sample(range(1, 10_001), len(kinds)), kinds, strict=True))
    path.write_bytes(b"".join((broken(i, bad[i]) if i in bad else good(i)) + b"\n" for i in range(1, 10_001)))
    return path, bad


def test_300_broken_rows_of_10_000_are_told_by_line_and_kind(ten_thousand, tmp_path, detector):
    source, bad = ten_thousand
    target = tmp_path / "out.jsonl"
    assert len(bad) == 300
    assert len(set(bad.values())) == 12
    summary = score_file(detector, source, target, progress=False)
    assert (summary.rows, summary.checked, summary.invalid) == (10_000, 9_700, 300)
    with open(target, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            verdict = row["hallucination"]
            if number in bad:
                assert (verdict["status"], verdict["reason"]) == ("not_checked", "invalid_input")
                assert verdict["detail"].startswith(f"{source}, line {number}: {BROKEN[bad[number]]}")
                assert verdict["score"] is verdict["flagged"] is None
            else:
                assert row["id"] == number
                assert (verdict["status"], verdict["flagged"]) == ("checked", number % 2 == 0)
    assert number == 10_000
    assert summary.unreadable[0].startswith(f"{source}, line {min(bad)}: ")


@pytest.mark.parametrize("kind", BROKEN)
def test_strict_names_the_first_bad_row_whatever_is_wrong_with_it(tmp_path, detector, kind):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"\n".join([good(1), broken(2, kind), good(3), b"{"]))
    with pytest.raises(InputError) as caught:
        score_file(detector, source, target, strict=True, progress=False)
    assert caught.value.given.startswith(f"{source}, line 2: {BROKEN[kind]}")
    assert caught.value.expected
    assert "the same command continues" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_strict_keeps_the_windows_before_the_bad_row_and_goes_on_once_it_is_mended(tmp_path, detector):
    source, target, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    rows = [json.dumps({"id": i, "prompt": "p", "response": "p q"}).encode() for i in range(ROWS + 20)]
    source.write_bytes(b"\n".join([*rows[: ROWS + 10], b"{", *rows[ROWS + 11 :]]))
    with pytest.raises(InputError, match=f"line {ROWS + 11}: not readable JSON") as caught:
        score_file(detector, source, target, strict=True, progress=False)
    assert f"{ROWS} finished rows are kept in" in caught.value.__notes__[0]
    assert len(partial_path(target).read_bytes().splitlines()) == ROWS
    source.write_bytes(b"\n".join(rows))
    summary = score_file(detector, source, target, strict=True, progress=False)
    assert (summary.rows, summary.earlier) == (len(rows), ROWS)
    score_file(detector, source, whole, progress=False)
    assert target.read_bytes() == whole.read_bytes()
    assert run_path(target).read_bytes() == run_path(whole).read_bytes()


def test_a_row_without_passages_is_no_bad_row(tmp_path, detector):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b'{"id": 1, "context": [], "question": "q", "response": "r"}\n')
    assert score_file(detector, source, target, strict=True, progress=False).not_checked["no_passages"] == 1
