"""The image, as far as it can be checked without an engine: what it is built from, who runs in it, and its commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from click.testing import CliRunner

from groundwire.cli import cli
from groundwire.fetch import cache_root

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Every instruction with its arguments; lines that go on are joined, comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


ALL = instructions()
LAST = ALL[[i for i, (word, _) in enumerate(ALL) if word == "FROM"][-1] :]


def only(word: str) -> str:
    """The argument of an instruction that the last stage has once."""
    (found,) = [rest for name, rest in LAST if name == word]
    return found


def copied() -> list[str]:
    """What is copied out of the repository."""
    sources = [shlex.split(rest)[:-1] for word, rest in ALL if word == "COPY" and "--from=" not in rest]
    return [name for names in sources for name in names]


def test_the_base_is_pinned_to_a_patch_release():
    bases = {rest.split()[0] for word, rest in ALL if word == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases.pop())


def test_nobody_is_root_in_it():
    user = only("USER")
    assert re.fullmatch(r"[1-9]\d+", user)  # a number: Kubernetes' runAsNonRoot cannot tell who a name is
    made = next(i for i, (word, rest) in enumerate(LAST) if word == "RUN" and f"useradd --uid {user} " in rest)
    assert made < LAST.index(("USER", user))
    assert not [rest for word, rest in LAST[LAST.index(("USER", user)) :] if word in ("RUN", "COPY", "ADD")]


def test_what_is_copied_exists_and_nothing_else_is_sent():
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    assert "**/__pycache__" in ignored


def test_pip_can_build_it_from_what_is_copied(tmp_path):
    """The very line of the Dockerfile, in a folder with what it copies; without what needs an index."""
    for name in copied():
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "pretrained"))
        else:
            shutil.copy(ROOT / name, tmp_path)
    (line,) = [rest for word, rest in ALL if word == "RUN" and "pip install" in rest]
    (extras,) = [rest.partition("=")[2].strip('"') for word, rest in ALL if word == "ARG" and rest.startswith("EXTRAS")]
    _, *arguments = shlex.split(line.replace("${EXTRAS}", extras))
    offline = ["--dry-run", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, *offline], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Would install groundwire-" in done.stdout
    assert "does not provide the extra" not in done.stdout + done.stderr
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)


def test_the_command_serves_on_every_address():
    command = json.loads(only("CMD"))
    assert command == ["groundwire", "serve", "--host", "0.0.0.0"]
    done = CliRunner().invoke(cli, [*command[1:], "--help"])
    assert (done.exit_code, "OpenAI-compatible" in done.output) == (0, True)
    assert CliRunner().invoke(cli, [*command[1:], "--no-such-flag"]).exit_code == 2


def test_the_health_check_sees_a_server_and_sees_none(served):
    command = json.loads(only("HEALTHCHECK").partition("CMD")[2])
    port = only("EXPOSE")
    assert "start-period" in only("HEALTHCHECK")

    def check(at: int) -> int:
        code = command[2].replace(f":{port}/", f":{at}/")
        assert code != command[2]
        return subprocess.run([sys.executable, *command[1:2], code], capture_output=True, timeout=30).returncode

    server = served()
    assert check(server.address[1]) == 0
    server.app.state.loop._closing = True  # the engine has ended
    assert check(server.address[1]) != 0
    server.app.state.loop._closing = False
    assert check(9) != 0


def test_the_model_is_kept_in_the_volume(monkeypatch):
    environment = dict(part.split("=", 1) for part in shlex.split(only("ENV")))
    for name in ("GROUNDWIRE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", environment["HOME"])
    assert Path(only("VOLUME")) in cache_root().parents
    made = next(rest for word, rest in LAST if word == "RUN" and "install -d" in rest)
    assert made.endswith(f"install -d -o groundwire {only('VOLUME')}")  # a new volume takes its owner from here


def test_the_command_is_found():
    (folder,) = [rest.split()[-1] for word, rest in ALL if word == "RUN" and "-m venv" in rest]
    assert f"PATH={folder}/bin:$PATH" in only("ENV")
    assert f"--from=build {folder} {folder}" in only("COPY")
