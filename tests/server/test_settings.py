"""Settings: a flag wins over the environment, that over the file, that over the default; the docs' table is theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwire.errors import InputError
from groundwire.server import settings as module
from groundwire.server.settings import Settings, flag, has_flag, table

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
HASH = "a" * 64


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "groundwire.toml"
    path.write_text('port = 3\npolicy = "block"\nallowed_policies = ["block", "hold"]\nmetrics_open = true\n')
    return path


@pytest.mark.parametrize(
    ("flags", "environment", "use_file", "wanted"),
    [
        ({}, None, False, 8000),
        ({}, None, True, 3),
        ({}, "2", False, 2),
        ({}, "2", True, 2),
        ({"port": "1"}, None, False, 1),
        ({"port": "1"}, None, True, 1),
        ({"port": "1"}, "2", False, 1),
        ({"port": "1"}, "2", True, 1),
    ],
)
def test_the_nearest_source_wins(monkeypatch, file, flags, environment, use_file, wanted):
    if environment:
        monkeypatch.setenv("GROUNDWIRE_PORT", environment)
    assert Settings.load(flags, file if use_file else None).port == wanted


def test_sources_mix_by_field(monkeypatch, file):
    monkeypatch.setenv("GROUNDWIRE_ALLOWED_POLICIES", "annotate, halt,block")
    found = Settings.load({"max_batch": "2"}, file)
    assert (found.policy, found.allowed_policies, found.max_batch, found.metrics_open, found.max_queue) == (
        "block", ("annotate", "halt", "block"), 2, True, 64
    )  # fmt: skip


def test_without_load_neither_environment_nor_file_is_read(monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_PORT", "2")
    assert Settings().port == 8000


@pytest.mark.parametrize(
    ("flags", "environment", "named"),
    [
        ({"port": "70000"}, {}, "--port is '70000'"),
        ({"max_batch": "0"}, {}, "--max-batch is '0'"),
        ({"threshold": "nan"}, {}, "--threshold is 'nan'"),
        ({"policy": "shout"}, {}, "--policy is 'shout'"),
        ({"policy": "halt", "allowed_policies": "hold"}, {}, "policy halt is not among allowed_policies"),
        ({}, {"GROUNDWIRE_MAX_QUEUE": "many"}, "GROUNDWIRE_MAX_QUEUE is 'many'"),
        ({}, {"GROUNDWIRE_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks: false"),
        ({}, {"GROUNDWIRE_API_KEYS": ""}, "GROUNDWIRE_API_KEYS\n"),  # an unset variable must not open the server
    ],
)
def test_what_is_unusable_is_named_with_its_source(monkeypatch, flags, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as raised:
        Settings.load(flags)
    assert named in str(raised.value)


def test_an_unknown_key_of_the_file_is_refused(tmp_path):
    path = tmp_path / "typo.toml"
    path.write_text("prot = 1\n")
    with pytest.raises(InputError, match=r"'prot' in '.*typo.toml' is 1"):
        Settings.load({}, path)


@pytest.mark.parametrize("content", [None, b"port 3", b"\xff"])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path, content):
    path = tmp_path / "bad.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read"):
        Settings.load({}, path)


def test_a_key_given_where_its_hash_belongs_is_not_repeated():
    assert Settings.load({"api_keys": f"{HASH},{HASH[:-1]}b"}).api_keys == (HASH, HASH[:-1] + "b")
    with pytest.raises(InputError, match="64 hexadecimal digits") as raised:
        Settings.load({"api_keys": "sk-secret"})
    assert "secret" not in str(raised.value)


def test_a_secret_has_no_flag_and_is_not_shown(monkeypatch):
    monkeypatch.setenv("GROUNDWIRE_UPSTREAM_KEY", "sk-secret")
    found = Settings.load({})
    assert found.upstream_key.get_secret_value() == "sk-secret"
    assert "secret" not in repr(found)
    assert [name for name, field in Settings.model_fields.items() if not has_flag(field)] == ["upstream_key"]


def test_every_field_is_described_and_in_the_table():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert f"`GROUNDWIRE_{name.upper()}` | `{name}`" in table()
    assert "| `--max-queue` | `GROUNDWIRE_MAX_QUEUE` | `max_queue` | `64` |" in table()
    assert flag("max_queue") == "--max-queue"


def test_the_documented_table_is_current():
    assert module.table() in DOCS.read_text(encoding="utf-8"), "python -m groundwire.server.settings prints it"
