"""Score, sample, label, report: the corrected rate comes out near the truth, by the commands."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.report.command import report
from groundwire.sample.command import sample


def verdict(score: float) -> dict:
    about = {"status": "checked", "score": score, "flagged": score > 0.5, "threshold": 0.5, "spans": [], "terms": []}
    return {"hallucination": about}


@pytest.fixture
def files(tmp_path):
    """1,000 rows, 30 % unfaithful; the scores call 60 % of them so."""
    scored, answers = tmp_path / "scored.jsonl", tmp_path / "answers.jsonl"
    truth = {i: int(i % 10 < 3) for i in range(1000)}
    rows = [{"id": i, **verdict(0.9 if i % 10 < 6 else 0.1 + i / 1e5)} for i in truth]
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [{"id": i, "prompt": f"p {i}", "response": "r", "generator": "ab"[i % 2]} for i in truth]
    answers.write_text("".join(json.dumps(row) + "\n" for row in asked))
    return scored, answers, truth


def run(command, *arguments: object):
    done = CliRunner().invoke(command, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stderr


def test_from_scores_to_a_corrected_rate(files, tmp_path):
    scored, answers, truth = files
    drawn, page = tmp_path / "to_label.jsonl", tmp_path / "r.html"
    said = run(sample, scored, "--for-labels", 200, "-o", drawn, "--answers", answers)
    assert "more where the detector is in doubt" in said
    assert f"200 rows written to {drawn}" in said
    common = (scored, "--answers", answers, "-o", page, "--overwrite")
    assert "unfaithful: not corrected: accuracy on this data is unknown" in run(report, *common)
    rows = [json.loads(line) for line in drawn.read_text().splitlines()]
    drawn.write_text("".join(json.dumps(row | {"label": truth[row["id"]]}) + "\n" for row in rows))
    said = run(report, *common, "--labels", drawn, "--by", "generator")
    share = float(said.split("unfaithful: ")[1].split("%")[0])
    assert abs(share - 30) < 8
    assert "95% interval" in page.read_text()


def test_the_command_is_registered_and_explains_itself():
    said = " ".join(CliRunner().invoke(cli, ["sample", "--help"]).output.split())
    assert "worth labelling" in said
    assert "label_weight" in said
