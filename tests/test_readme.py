"""The README runs: its Python block with the real model, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.model
@pytest.mark.usefixtures("reader")
def test_the_guard_block_runs_as_it_stands() -> None:
    block = re.search(r"<!-- run:guard -->\n```python\n(.*?)```", README, re.S)
    assert block
    done = subprocess.run([sys.executable, "-c", block[1]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer, line, verdict = done.stdout.strip().split("\n")
    assert answer == "The bridge opened in 1931 and was designed by Sir Edmund Blackwood."
    assert line.startswith(("unfaithful (score 0.", "faithful (score 0."))
    score, flagged = verdict.split()[:2]
    assert 0 < float(score) < 1
    assert flagged in ("True", "False")


def test_the_commands_it_names_exist() -> None:
    from groundwire.cli import cli

    named = set(re.findall(r"^groundwire ((?:train )?\w+)", README, re.M))
    trained = {"train sae", "train detector", "train reader"}
    assert named == {"score", "sample", "report", "terms", "calibrate", "serve", *trained}
    for command in named:
        assert CliRunner().invoke(cli, [*command.split(), "--help"]).exit_code == 0


def test_the_demo_output_is_there() -> None:
    output = re.search(r"<!-- output:demo -->\n```\n(.*?)```\n<!-- /output -->", README, re.S)
    assert output
    assert "score" in output[1]
    assert "⟦" in output[1]
