"""`groundwire serve`: its flags are the settings, it says what it serves, stops when asked, and hashes keys."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys

import click
import httpx
import pytest
from click.testing import CliRunner

from groundwire.errors import InputError
from groundwire.server import command
from groundwire.server.command import serve
from groundwire.server.settings import Settings, flag

# The command in a process of its own, over the public fake: signals reach it as they would in production.
SERVE = """
import sys
from groundwire.engines.fake import fake_detector
from groundwire.server import app
app.load_detector = lambda settings: fake_detector()
sys.argv = ["groundwire", "serve", *sys.argv[1:]]
from groundwire.cli import main
main()
"""


@pytest.fixture
def given(monkeypatch):
    """The settings the command would serve with."""
    found = []
    monkeypatch.setattr(command, "_run", lambda settings, listener: found.append(settings))

    def run(*arguments):
        done = CliRunner().invoke(serve, ["--port", "0", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return found.pop()

    return run


def test_every_setting_but_the_secret_is_a_flag():
    text = CliRunner().invoke(serve, ["--help"]).output
    missing = [name for name in Settings.model_fields if flag(name) not in text]
    assert missing == ["upstream_key"]
    assert "[default: 64]" in text


def test_flags_reach_the_settings(given):
    found = given("--max-batch", "3", "--metrics-open", "--allowed-policies", "annotate,block", "--threshold", "0.25")
    assert (found.max_batch, found.metrics_open, found.allowed_policies, found.threshold) == (
        3, True, ("annotate", "block"), 0.25
    )  # fmt: skip


def test_a_flag_wins_over_the_environment_and_that_over_the_file(given, monkeypatch, tmp_path):
    file = tmp_path / "groundwire.toml"
    file.write_text("max_queue = 1\nmax_batch = 1\nmax_rows = 1\nmetrics_open = true\n")
    monkeypatch.setenv("GROUNDWIRE_MAX_QUEUE", "2")
    monkeypatch.setenv("GROUNDWIRE_MAX_BATCH", "2")
    found = given("--config", str(file), "--max-queue", "3", "--no-metrics-open")
    assert (found.max_queue, found.max_batch, found.max_rows, found.metrics_open) == (3, 2, 1, False)


def test_a_wrong_value_is_an_error_that_names_the_flag(given):
    with pytest.raises(InputError, match="--max-batch is '0'"):
        given("--max-batch", "0")


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(given):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1, port {port}"):
            given("--port", str(port))


def test_an_address_of_another_machine_is_refused(given):
    with pytest.raises(InputError, match=r"cannot listen on 192\.0\.2\.1"):
        given("--host", "192.0.2.1")


def test_a_key_is_hashed_from_a_pipe():
    done = CliRunner().invoke(serve, ["--hash-key"], input="my-key\n")
    assert (done.exit_code, done.output) == (0, hashlib.sha256(b"my-key").hexdigest() + "\n")


def test_no_key_is_an_error():
    assert isinstance(CliRunner().invoke(serve, ["--hash-key"], input="\n").exception, InputError)


@pytest.mark.parametrize(
    ("host", "keys", "warned"), [("127.0.0.1", (), False), ("0.0.0.0", (), True), ("0.0.0.0", ("a" * 64,), False)]
)
def test_an_open_server_is_warned_of(host, keys, warned):
    from groundwire.engines.fake import fake_detector
    from groundwire.server.app import create_app

    settings = Settings(host=host, api_keys=keys, served_model_name="mine")
    with command._listen(host, 0) as listener:
        line = command._greeting(create_app(settings, fake_detector()), settings, listener)
        assert line.startswith(f"Groundwire serves mine at http://{host}:{listener.getsockname()[1]}/v1")
    assert ("No API keys" in line) is warned


@pytest.fixture
def started():
    processes = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, "--port", "0", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)])
def test_it_says_what_it_serves_answers_and_stops_when_asked(started, stop, code):
    process = started()
    line = process.stdout.readline()
    url = re.fullmatch(r"Groundwire serves fake at (http://127.0.0.1:\d+/v1)\n", line)[1]
    assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "fake"
    assert "server" not in httpx.get(f"{url}/models").headers
    process.send_signal(stop)
    _, logged = process.communicate(timeout=30)
    assert process.returncode == code
    lines = [json.loads(line) for line in logged.splitlines()]  # every line is JSON
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/v1/models"] * 2


def test_a_fault_of_the_settings_is_a_message_without_a_trace(started, tmp_path):
    process = started("--api-keys-file", str(tmp_path / "none"))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("groundwire: API keys in ")
    assert "Traceback" not in said


@pytest.mark.parametrize("absent", ["fastapi", "uvicorn", "pydantic_settings", "prometheus_client"])
def test_a_missing_extra_gives_the_pip_line(absent):
    code = (
        f"import sys; sys.modules[{absent!r}] = None; sys.argv[1:] = ['serve', '--port', '0']\n"
        "from groundwire.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert 'pip install "groundwire[server]"' in done.stderr, done.stderr


def test_it_is_a_click_command():
    assert isinstance(serve, click.Command)
