from __future__ import annotations

import pytest
from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.errors import ArtifactError, InputError
from groundwire.terms_page.command import terms


def test_a_folder_becomes_a_page(artifact, tmp_path):
    artifact.save_pretrained(tmp_path / "a")
    target = tmp_path / "terms.html"
    done = CliRunner().invoke(cli, ["terms", "--artifact", str(tmp_path / "a"), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert (done.stdout, done.stderr) == ("", f"7 terms of fake\nwritten to {target}\n")
    assert target.read_text("utf-8").count("<article") == 7


def test_the_shipped_detector_is_the_default(tmp_path):
    done = CliRunner().invoke(terms, ["-o", str(tmp_path / "t.html")])
    assert done.exit_code == 0, done.output
    assert "smollm2-135m-instruct" in (tmp_path / "t.html").read_text("utf-8")


def test_nothing_is_overwritten_unasked_and_the_detector_never(artifact, tmp_path):
    artifact.save_pretrained(tmp_path / "a")
    target = tmp_path / "t.html"
    target.write_text("mine")
    options = ["--artifact", str(tmp_path / "a"), "-o"]
    done = CliRunner().invoke(terms, [*options, str(target)])
    assert isinstance(done.exception, InputError)
    assert target.read_text() == "mine"
    assert CliRunner().invoke(terms, [*options, str(target), "--overwrite"]).exit_code == 0
    assert target.read_text("utf-8").startswith("<!doctype html>")
    config = tmp_path / "a" / "config.json"
    done = CliRunner().invoke(terms, [*options, str(config), "--overwrite"])
    assert isinstance(done.exception, InputError)
    assert config.read_text().startswith("{")


def test_no_detector_no_page(tmp_path):
    done = CliRunner().invoke(terms, ["--artifact", str(tmp_path), "-o", str(tmp_path / "t.html")])
    assert isinstance(done.exception, ArtifactError)
    assert not (tmp_path / "t.html").exists()


@pytest.mark.parametrize("option", [[], ["--artifact", "a"]])
def test_an_output_is_required(option):
    done = CliRunner().invoke(terms, option)
    assert done.exit_code == 2
    assert "--output" in done.output
