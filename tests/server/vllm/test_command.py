"""`groundwire serve --engine vllm`: the command line and environment of `vllm serve`; what it refuses before that."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from groundwire.engines.reader import DEFAULT_MODEL
from groundwire.engines.vllm.scheduler import SCHEDULER
from groundwire.engines.vllm.worker import WORKER
from groundwire.errors import ArtifactError, InputError, MissingExtra, ModelError
from groundwire.server.command import serve
from groundwire.server.settings import Settings
from groundwire.server.vllm import command as module
from groundwire.server.vllm import fit
from groundwire.server.vllm.command import GROUPS, PLUGINS, run, vllm_command
from tests.server.vllm.conftest import TERMS

FLAG = ["--worker-cls", WORKER, "--scheduler-cls", SCHEDULER]


@pytest.fixture(autouse=True)
def installed(monkeypatch) -> dict[str, list[Any]]:
    """vLLM is installed, with two plugins of its own; by group, for tests that want others."""
    found: dict[str, list[Any]] = {group: [] for group in GROUPS}
    found[PLUGINS] = [SimpleNamespace(name="groundwire", load=lambda: None)]
    found[GROUPS[0]] = [SimpleNamespace(name="resolver"), SimpleNamespace(name="another")]
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "entry_points", lambda group, name=None: found[group])
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    return found


@pytest.fixture
def model(tiny_llama_folder) -> str:
    return str(tiny_llama_folder)


@pytest.fixture
def elsewhere(artifact, tmp_path) -> Path:
    """A detector of another model."""
    replace(artifact, fingerprint={**artifact.fingerprint, "tokenizer": "another"}).save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def line(arguments: Any, **settings: Any) -> list[str]:
    """What follows `vllm serve`."""
    command, _ = vllm_command(arguments, Settings(**settings))
    assert command[:4] == [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
    return command[4:]


def variables(model: str, **settings: Any) -> dict[str, str]:
    return vllm_command([model], Settings(**settings))[1]


# -- the command line


def test_the_worker_is_ours_where_the_detector_fits(model, detector_folder):
    found = line([model, "--dtype", "float32", "-tp", "2"], detector=detector_folder)
    assert found == [model, *FLAG, "--dtype", "float32", "-tp", "2"]


def test_it_is_vllm_s_where_the_detector_that_ships_does_not(model):
    assert line([model, "--speculative-config", "{}"]) == [model, "--speculative-config", "{}"]


def test_the_detector_that_ships_may_fit(model, detector_folder, monkeypatch):
    monkeypatch.setattr(fit, "DEFAULT_ARTIFACT", detector_folder)
    assert line([model]) == [model, *FLAG]


def test_settings_that_vllm_has_flags_for_become_these(model, detector_folder):
    found = line([model], detector=detector_folder, host="0.0.0.0", port=9, served_model_name="mine")
    assert found == [model, "--host", "0.0.0.0", "--port", "9", "--served-model-name", "mine", *FLAG]


def test_without_a_model_it_is_the_default(model, identity, detector_folder, monkeypatch):
    monkeypatch.setattr(module, "identify", lambda *_, **__: replace(identity, id=DEFAULT_MODEL))
    settings = {"detector": detector_folder}
    named = ["--served-model-name", DEFAULT_MODEL]
    for arguments in ([], ["--seed", "1"]):
        assert line(arguments, **settings) == [model, *named, *FLAG, *arguments]
    assert line([DEFAULT_MODEL], **settings) == [model, *named, *FLAG]
    mine = ["--served-model-name", "mine"]
    assert line([], **settings, served_model_name="mine") == [model, *mine, *FLAG]
    assert line(mine, **settings) == [model, *FLAG, *mine]


def test_a_model_that_only_vllm_knows_goes_to_vllm(capsys):
    assert line(["/nowhere/at/all"]) == ["/nowhere/at/all"]
    assert "/nowhere/at/all" in capsys.readouterr().err


def test_a_scheduler_of_the_operator_s_stays(model, detector_folder):
    for given in (["--scheduler-cls", "mine.Scheduler"], ["--scheduler_cls=mine.Scheduler"]):
        assert line([model, *given], detector=detector_folder) == [model, "--worker-cls", WORKER, *given]
    given = [model, "--worker-cls", WORKER]
    assert line(given, detector=detector_folder) == [model, "--scheduler-cls", SCHEDULER, *given[1:]]


def test_a_worker_of_the_operator_s_stays(model, detector_folder):
    assert line([model, "--worker-cls", "mine.Worker"], detector=detector_folder) == [
        model, "--worker-cls", "mine.Worker"
    ]  # fmt: skip


# -- the environment


def test_what_is_given_stands_in_the_environment(model, detector_folder, monkeypatch):
    monkeypatch.chdir(detector_folder.parent)
    given = {"threshold": 0.25, "allowed_policies": ("annotate", "block"), "verdict_log_text": True, "target": None}
    found = variables(model, detector=Path(detector_folder.name), port=9, **given)
    assert found == {
        "GROUNDWIRE_DETECTOR": str(detector_folder),
        "GROUNDWIRE_THRESHOLD": "0.25",
        "GROUNDWIRE_ALLOWED_POLICIES": "annotate,block",
        "GROUNDWIRE_VERDICT_LOG_TEXT": "true",
        "VLLM_PLUGINS": "another,resolver,groundwire",
    }


def test_what_stands_there_is_read_as_it_was_meant(model, detector_folder, monkeypatch):
    given = {"threshold": 0.25, "allowed_policies": ("annotate", "block"), "verdict_log_text": True, "max_queue": 7}
    for name, value in variables(model, detector=detector_folder, **given).items():
        monkeypatch.setenv(name, value)
    found = Settings.load({})
    assert {name: getattr(found, name) for name in given} == given
    assert found.detector == detector_folder
    assert found.model_fields_set == {*given, "detector"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("", "groundwire"), ("resolver", "resolver,groundwire"), ("a,groundwire,b", "a,groundwire,b")],
)
def test_plugins_that_were_chosen_stay(model, monkeypatch, before, after):
    monkeypatch.setenv("VLLM_PLUGINS", before)
    assert variables(model)["VLLM_PLUGINS"] == after


def test_it_becomes_vllm(model, detector_folder, monkeypatch, capsys):
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
    monkeypatch.setenv("OF_THE_OPERATOR", "1")
    run([model], Settings(detector=detector_folder))
    ((program, command, environment),) = became
    assert (program, command[4:]) == (sys.executable, [model, *FLAG])
    assert environment["GROUNDWIRE_DETECTOR"] == str(detector_folder)
    assert environment["OF_THE_OPERATOR"] == "1"
    assert f"serve {model}" in capsys.readouterr().err


# -- refused


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--pipeline-parallel-size", "2"], "--tensor-parallel-size"),
        (["-pp=2"], "--tensor-parallel-size"),
        (["--data_parallel_size=2"], "load balancer"),
        (["-dp", "4"], "load balancer"),
        (["--speculative-config", "{}"], "leave it out"),
        (["-sc", "{}"], "leave it out"),
    ],
)
def test_flags_under_which_verdicts_would_mislead(model, detector_folder, flags, says):
    with pytest.raises(InputError, match=says) as raised:
        line([model, *flags], detector=detector_folder)
    assert flags[0].partition("=")[0] in str(raised.value)


def test_the_same_flags_that_change_nothing(model, detector_folder):
    flags = ["--pipeline-parallel-size", "1", "-dp=1"]
    assert line([model, *flags], detector=detector_folder) == [model, *FLAG, *flags]


def test_a_detector_that_is_named_and_does_not_fit(model, artifact, elsewhere, tmp_path):
    with pytest.raises(ArtifactError, match="another tokenizer"):
        line([model], detector=elsewhere)
    encoder = replace(artifact.scorer.encoder, weight=artifact.scorer.encoder.weight[:, :TERMS])
    probe = replace(artifact.probe, row=artifact.probe.row[:TERMS])
    narrow = replace(artifact, scorer=replace(artifact.scorer, encoder=encoder), probe=probe)
    narrow.save_pretrained(tmp_path / "narrow")
    with pytest.raises(ArtifactError, match=f"a model of width {TERMS}, not 32"):
        line([model], detector=tmp_path / "narrow")
    with pytest.raises(ModelError, match="/nowhere/at/all"):
        line(["/nowhere/at/all"], detector=elsewhere)
    with pytest.raises(ArtifactError, match="no readable detector"):
        line([model], detector=tmp_path)


@pytest.mark.parametrize("name", ["max_batch", "upstream_timeout"])
def test_settings_that_are_vllm_s_own(model, name):
    with pytest.raises(InputError, match="where vLLM serves"):
        line([model], **{name: 3})


def test_without_vllm_or_without_our_entry_point(model, installed, monkeypatch):
    installed[PLUGINS] = []
    with pytest.raises(InputError, match="without verdicts"):
        line([model])
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "groundwire\[vllm\]"'):
        line([model])


# -- groundwire serve


@pytest.fixture
def served(monkeypatch) -> Callable[..., tuple[list[str], Settings]]:
    """`arguments, settings = served(*flags)`: what `groundwire serve --engine vllm` hands on."""
    found: list[Any] = []

    def stop(*given: Any) -> None:
        found.append(given)
        raise click.exceptions.Exit(0)

    monkeypatch.setattr(module, "run", stop)

    def call(*flags: str) -> tuple[list[str], Settings]:
        done = CliRunner().invoke(serve, ["--engine", "vllm", *flags], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        arguments, settings = found.pop()
        return list(arguments), settings

    return call


def test_flags_go_to_whom_they_belong(served):
    theirs = ["me/mine", "-tp", "2", "--max-num-seqs", "4", "--enable-prefix-caching", "--seed=1"]
    arguments, settings = served(*theirs[:3], "--threshold", "0.3", *theirs[3:], "--policy=block", "--port", "9")
    assert arguments == theirs
    assert settings.model_fields_set == {"threshold", "policy", "port"}
    assert (settings.threshold, settings.policy, settings.port) == (0.3, "block", 9)


def test_a_configuration_in_yaml_is_vllm_s_and_one_in_toml_ours(served, tmp_path):
    (tmp_path / "ours.toml").write_text("threshold = 0.4\n")
    arguments, settings = served("m", "--config", str(tmp_path / "ours.toml"))
    assert (arguments, settings.threshold) == (["m"], 0.4)
    for name in ("vllm.yaml", "vllm.yml"):
        assert served("m", "--config", name)[0] == ["m", "--config", name]


@pytest.mark.parametrize("flags", [["me/mine"], ["--max-num-seqs", "4"], ["-tp", "2"]])
def test_without_vllm_its_flags_are_unknown(flags):
    done = CliRunner().invoke(serve, flags)
    assert done.exit_code == 2
    assert f"No such option or argument: {flags[0]}" in done.output


def test_a_plugin_that_cannot_be_loaded_is_told_here_and_not_logged_there(model, installed):
    def broken() -> None:
        raise ImportError("no such module")

    installed[PLUGINS] = [SimpleNamespace(name="groundwire", load=broken)]
    with pytest.raises(ImportError, match="no such module"):
        vllm_command([model], Settings())


@pytest.mark.parametrize("grpc", [True, False])
def test_a_front_end_without_plugins_is_refused(model, monkeypatch, grpc):
    if not grpc:
        monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(InputError, match="loads no plugins"):
        vllm_command([model, *(["--grpc"] if grpc else [])], Settings())
