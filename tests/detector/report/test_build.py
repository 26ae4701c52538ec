from __future__ import annotations

import json
import os
import re
from html import unescape

import pytest

from groundwire.errors import GroundwireError, InputError
from groundwire.report.build import build_report


def said(path) -> str:
    markup = path.read_text("utf-8")
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", markup[markup.index("<body") :])))


def test_a_page_of_scores_alone(mixed, tmp_path):
    tally = build_report(mixed[0], tmp_path / "r.html", progress=False)
    assert (tally.all.rows, tally.all.checked, tally.all.flagged, tally.all.not_checked) == (21, 20, 10, 1)
    words = said(tmp_path / "r.html")
    assert "share flagged 50.0%" in words
    assert "accuracy of the detector on this data is unknown" in words
    assert "<bdi>by</bdi>" in (tmp_path / "r.html").read_text("utf-8")  # marked, so in the scores
    assert not (tmp_path / "r.html.partial").exists()


def test_a_page_of_scores_and_answers(mixed, tmp_path):
    build_report(*mixed[:1], tmp_path / "r.html", answers=mixed[1], progress=False)
    words = said(tmp_path / "r.html")
    assert "by Edmund Blackwood" in words
    assert "AUC" in words
    assert "20 have a label: 10 unfaithful, 10 faithful" in words
    assert "By generator" in words
    assert "By dataset" not in words  # one value tells no rows apart
    assert "a 11 1 1 empty_response – 50.0% (5 of 10)" in words


def test_columns_of_one_s_own(mixed, tmp_path):
    build_report(mixed[0], tmp_path / "r.html", answers=mixed[1], by=["dataset", "dataset"], progress=False)
    words = said(tmp_path / "r.html")
    assert words.count("By dataset") == 1
    assert "By generator" not in words


@pytest.mark.parametrize(("answers", "message"), [(False, "without answers"), (True, "no answer has a column 'model'")])
def test_a_column_nobody_has_is_refused(mixed, tmp_path, answers, message):
    with pytest.raises(InputError, match=message):
        build_report(mixed[0], tmp_path / "r.html", answers=mixed[1] if answers else None, by=["model"], progress=False)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_rows_is_refused(tmp_path, content):
    (tmp_path / "scored.jsonl").write_text(content)
    with pytest.raises(InputError, match="has no rows"):
        build_report(tmp_path / "scored.jsonl", tmp_path / "r.html", progress=False)


def test_rows_in_another_order_are_refused_and_nothing_is_written(mixed, tmp_path):
    lines = mixed[1].read_text("utf-8").splitlines()
    mixed[1].write_text("\n".join(lines[::-1]))
    with pytest.raises(InputError, match="has id 0, line 1 of the answers 'empty'"):
        build_report(mixed[0], tmp_path / "r.html", answers=mixed[1], progress=False)
    assert not (tmp_path / "r.html").exists()


def test_nothing_is_overwritten_unasked(mixed, tmp_path):
    target = tmp_path / "r.html"
    target.write_text("mine")
    with pytest.raises(InputError, match="exists"):
        build_report(mixed[0], target, progress=False)
    build_report(mixed[0], target, overwrite=True, progress=False)
    assert target.read_text("utf-8").startswith("<!doctype html>")
    for source in mixed:
        with pytest.raises(InputError, match="overwrite its own input"):
            build_report(mixed[0], source, answers=mixed[1], overwrite=True, progress=False)


def test_a_page_that_cannot_be_written_leaves_nothing(mixed, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GroundwireError, match="No space left"):
        build_report(mixed[0], tmp_path / "r.html", progress=False)
    assert not list(tmp_path.glob("r.html*"))


def test_the_page_stays_small_however_many_rows_there_are(verdict, tmp_path):
    scored = tmp_path / "scored.jsonl"
    spans = [{"start": 0, "end": 2000, "text": "word " * 400, "score": 0.9, "evidence": {"text": "w" * 5000}}] * 20
    with open(scored, "w") as out:
        for i in range(3000):
            out.write(json.dumps(verdict(i, spans=spans)) + "\n")
    build_report(scored, tmp_path / "r.html", progress=False)
    assert (tmp_path / "r.html").stat().st_size < 1_000_000 < scored.stat().st_size
