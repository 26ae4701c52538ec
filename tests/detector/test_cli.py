"""The `groundwire` command: instant help, errors as messages with exit code 2, extras named where they are missing."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

import groundwire
from groundwire.cli import COMMANDS, EXTRAS, cli, main
from groundwire.errors import InputError, MissingExtra


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def add_command(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A command "broken" that raises `error`."""

    @click.command()
    def broken() -> None:
        raise error

    module = ModuleType("broken_command")
    module.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "broken_command", module)
    monkeypatch.setitem(COMMANDS, "broken", ("broken_command", "broken", "Breaks."))


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["groundwire", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command_with_its_line(option: str) -> None:
    found = CliRunner().invoke(cli, [option])
    assert found.exit_code == 0
    for name, (_, _, line) in COMMANDS.items():
        assert name in found.output
        assert line[:30] in found.output


def test_help_and_version_load_neither_torch_nor_a_command() -> None:
    code = """
import sys
from groundwire.cli import COMMANDS, cli
for option in ("--help", "--version"):
    cli([option], standalone_mode=False)
print("loaded:", sorted({"torch", "transformers", *(module for module, _, _ in COMMANDS.values())} & set(sys.modules)))
"""
    run = python("-c", code)
    assert run.stdout.endswith("loaded: []\n"), run.stdout + run.stderr


def test_the_version_is_the_package_s() -> None:
    found = CliRunner().invoke(cli, ["--version"])
    assert (found.exit_code, found.output) == (0, f"groundwire, version {groundwire.__version__}\n")


def test_python_m_groundwire_is_the_command() -> None:
    run = python("-m", "groundwire", "--version")
    assert (run.returncode, run.stdout) == (0, f"groundwire, version {groundwire.__version__}\n"), run.stderr


def test_an_unknown_command_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "scoer") == 2
    assert "No such command 'scoer'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_explains_itself(name: str) -> None:
    found = CliRunner().invoke(cli, [name, "--help"])
    assert found.exit_code == 0, found.output
    assert found.output.startswith(f"Usage: cli {name}")


def test_an_error_is_a_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_command(monkeypatch, InputError("a row of lead", expected="a row of words", remedy="write words"))
    assert run_main(monkeypatch, "broken") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "groundwire: a row of lead\n  Expected: a row of words\n  To fix: write words\n"


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    add_command(monkeypatch, ZeroDivisionError())
    monkeypatch.setattr(sys, "argv", ["groundwire", "broken"])
    with pytest.raises(ZeroDivisionError):
        main()


@pytest.mark.parametrize(("module", "wanted"), EXTRAS.items())
def test_a_missing_extra_is_named_when_a_command_runs(
    monkeypatch: pytest.MonkeyPatch, module: str, wanted: tuple[str, str]
) -> None:
    add_command(monkeypatch, ModuleNotFoundError(f"No module named {module!r}", name=module))
    found = CliRunner().invoke(cli, ["broken"])
    assert isinstance(found.exception, MissingExtra)
    assert found.exception.given == f"{wanted[0]} is not installed"
    assert found.exception.remedy == f'pip install "groundwire[{wanted[1]}]"'


def test_any_other_missing_module_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    add_command(monkeypatch, ModuleNotFoundError("No module named 'groundwire.nowhere'", name="groundwire.nowhere"))
    found = CliRunner().invoke(cli, ["broken"])
    assert type(found.exception) is ModuleNotFoundError


def test_training_a_detector_without_its_extra_names_the_pip_line() -> None:
    code = """
import sys
sys.modules |= dict.fromkeys(("interpret", "sklearn", "scipy"))  # as if they were never installed
sys.argv = ["groundwire", "train", "detector", "data.jsonl", "--output", "detector", "--dictionary", "dictionary"]
from groundwire.cli import main
main()
"""
    run = python("-c", code)
    assert run.returncode == 2
    assert 'pip install "groundwire[train]"' in run.stderr, run.stderr
