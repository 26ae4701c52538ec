"""The verdict log: what `groundwire report` reads, rotated, without text unless asked for, and never in the way."""

from __future__ import annotations

import json
import os
import stat
import time

import pytest
from click.testing import CliRunner

from groundwire.batch.rows import parse_row
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.guard import decide
from groundwire.report.answers import join, read_answers
from groundwire.report.rows import read_scored
from groundwire.server import verdict_log
from groundwire.server.settings import Settings
from groundwire.server.verdict_log import Entry, VerdictLog
from groundwire.types import Detection


@pytest.fixture
def entry(bad_row):
    detector, example = fake_detector(), parse_row(bad_row, default_id="a")
    verdict = decide(detector.score(example), detector.threshold)
    return Entry("a", "detect", verdict, "fake", example.messages, example.response)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "logs" / "verdicts.jsonl"


def rows(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def write(path, *entries, **options):
    log = VerdictLog(path, **options)
    for entry in entries:
        log.write(entry)
    log.close()


def test_report_reads_it(path, entry, tmp_path):
    unchecked = Entry("b", "engine", decide(Detection("not_checked", "invalid_input", detail="row 'x'"), 0.5))
    write(path, entry, unchecked)
    first, second = read_scored(path)
    assert (first.id, first.checked, first.flagged, first.score) == ("a", True, True, entry.verdict.score)
    assert (second.id, second.reason) == ("b", "invalid_input")
    from groundwire.cli import cli

    page = tmp_path / "report.html"
    done = CliRunner().invoke(cli, ["report", str(path), "-o", str(page)])
    assert done.exit_code == 0, done.output
    assert "<html" in page.read_text(encoding="utf-8")


def test_without_text_it_holds_none_of_it(path, entry):
    assert entry.verdict.spans
    assert entry.verdict.spans[0].evidence
    assert any(c.token for c in entry.verdict.detection.contributions)
    write(path, entry, Entry("b", "detect", decide(Detection("not_checked", "invalid_input", detail="Tokyo"), 0.5)))
    content = path.read_text()
    for word in ("Tokyo", "bridge opened", "1931", "When did"):
        assert word not in content
    row = rows(path)[0]
    assert set(row) == {"id", "time", "source", "model", "hallucination"}
    assert [(s["start"], s["end"], s["score"]) for s in row["hallucination"]["spans"]] == [
        (s.start, s.end, s.score) for s in entry.verdict.spans
    ]
    assert row["time"].endswith("+00:00")


def test_with_text_it_is_the_answers_file_as_well(path, entry):
    write(path, entry, text=True)
    ((scored, answer),) = join(read_scored(path), read_answers(path))
    assert answer.text == entry.response
    assert list(answer.messages) == list(entry.messages)
    assert scored.spans[0].text in entry.response
    assert rows(path)[0]["hallucination"] == entry.verdict.to_dict()


def test_files_are_rotated_by_size_and_none_is_lost_before_its_time(path, entry):
    write(path, entry)
    size = path.stat().st_size
    path.unlink()
    entries = [Entry(str(i), "detect", entry.verdict, "fake") for i in range(9)]
    write(path, *entries, max_bytes=2 * size + 10, files=2)
    found = {name: [row["id"] for row in rows(path.with_name(name))] for name in sorted(os.listdir(path.parent))}
    assert found == {
        "verdicts.jsonl": ["8"], "verdicts.jsonl.1": ["6", "7"], "verdicts.jsonl.2": ["4", "5"]
    }  # fmt: skip


def test_a_line_larger_than_a_file_is_written_all_the_same(path, entry):
    write(path, entry, entry, max_bytes=1, files=1)
    assert len(rows(path)) == 1
    assert len(rows(path.with_name("verdicts.jsonl.1"))) == 1


def test_it_goes_on_where_it_was_and_drops_a_line_cut_short(path, entry):
    write(path, entry)
    with path.open("ab") as file:
        file.write(b'{"id": "half')
    write(path, entry)
    assert len(list(read_scored(path))) == 2
    path.write_bytes(b"no line end at all")
    write(path, entry)
    assert len(rows(path)) == 1


def test_only_its_owner_may_read_it(path, entry):
    write(path, entry)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_slow_disk_delays_nobody(path, entry, monkeypatch):
    dropped = []
    monkeypatch.setattr(verdict_log, "WAITING", 10)
    append = VerdictLog._append
    monkeypatch.setattr(VerdictLog, "_append", lambda self, line: (time.sleep(0.02), append(self, line)))
    log = VerdictLog(path, dropped=lambda: dropped.append(1))
    start = time.perf_counter()
    for _ in range(100):
        log.write(entry)
    assert time.perf_counter() - start < 1  # writing them takes 2
    log.close()
    assert len(dropped) >= 80
    assert len(dropped) + len(rows(path)) == 100


def test_a_failing_disk_is_counted_said_once_and_left_whole(path, entry, monkeypatch, caplog):
    dropped, write_ = [], os.write
    log = VerdictLog(path, dropped=lambda: dropped.append(1))
    log.write(entry)
    time.sleep(0.05)
    broken = iter([True, True, False])
    monkeypatch.setattr(verdict_log.os, "write", lambda file, line: write_(file, line[:20] if next(broken) else line))
    for _ in range(3):
        log.write(entry)
    log.close()
    assert len(dropped) == 2
    assert len(list(read_scored(path))) == 2
    assert [record.getMessage() for record in caplog.records] == ["verdict log cannot be written"]


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        VerdictLog(tmp_path)


def test_the_endpoint_writes_it(served, path, row, bad_row):
    server = served(settings=Settings(verdict_log=path, verdict_log_text=True))
    server.client.post("/v1/detect", json={"inputs": [row, {}, bad_row]}, headers={"x-request-id": "r"})
    server.app.state.verdict_log.close()
    found = list(read_scored(path))
    assert [(s.id, s.checked, s.flagged) for s in found] == [
        ("r-0", True, False),
        ("r-1", False, False),
        ("r-2", True, True),
    ]
    assert rows(path)[2]["response"] == bad_row["response"]
