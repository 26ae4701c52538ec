"""From answers to a page by the two commands, with the public fake detector."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.report.command import report


def test_score_then_report(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(Detector, "from_pretrained", lambda *_, **__: fake_detector())
    scored, target = tmp_path / "again.jsonl", tmp_path / "report.html"
    done = CliRunner().invoke(cli, ["score", str(mixed[1]), "-o", str(scored)])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["report", str(scored), "--answers", str(mixed[1]), "-o", str(target), "--top", "3"])
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert (
        done.stderr == "21 rows, 20 checked, 10 flagged, 1 not checked\n"
        "unfaithful: not corrected: accuracy on this data is unknown "
        f"(20 labelled rows that were checked; expected: at least 40)\nwritten to {target}\n"
    )  # and no progress bar
    page = target.read_text("utf-8")
    assert page.count("<article") == 3
    assert "fake" in page


def test_options_reach_the_page(mixed, tmp_path):
    target = tmp_path / "r.html"
    options = ["--answers", str(mixed[1]), "--by", "group", "--by", "generator", "--overwrite"]
    for _ in range(2):
        done = CliRunner().invoke(report, [str(mixed[0]), "-o", str(target), *options])
        assert done.exit_code == 0, done.output
    page = target.read_text("utf-8")
    assert page.index("<bdi>group</bdi>") < page.index("<bdi>generator</bdi>")


def test_scores_may_come_from_standard_input(mixed, tmp_path):
    target = tmp_path / "r.html"
    done = CliRunner().invoke(
        report, ["-", "--answers", str(mixed[1]), "-o", str(target)], input=mixed[0].read_text("utf-8")
    )
    assert done.exit_code == 0, done.output
    assert "<h1><code>standard input</code>" in target.read_text("utf-8")


@pytest.mark.parametrize("answers", ["none.jsonl", ".", "-"])
def test_answers_are_a_file(mixed, tmp_path, answers):
    path = answers if answers == "-" else str(tmp_path / answers)
    done = CliRunner().invoke(report, [str(mixed[0]), "--answers", path, "-o", str(tmp_path / "r.html")])
    assert isinstance(done.exception, InputError)
    assert "are no readable file" in str(done.exception)


@pytest.mark.parametrize("given", ["none.jsonl", "."])
def test_what_cannot_be_read_is_an_error_of_ours(tmp_path, given):
    done = CliRunner().invoke(report, [str(tmp_path / given), "-o", str(tmp_path / "r.html")])
    assert isinstance(done.exception, InputError)
    assert "cannot read" in str(done.exception)


def test_an_output_is_required(mixed):
    done = CliRunner().invoke(report, [str(mixed[0])])
    assert done.exit_code == 2
    assert "--output" in done.output
