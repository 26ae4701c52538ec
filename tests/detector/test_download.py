"""Downloads: whole, resumed, cut, refused, and of the wrong content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwire.download import download
from groundwire.errors import FetchError
from tests.detector.web import Web, served

BODY = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served() as web:
        web.files["/file"] = BODY
        yield web


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def partial(target: Path) -> Path:
    return target.with_name("file.partial")


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(web: Web, target: Path) -> None:
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert target.read_bytes() == BODY
    assert list(target.parent.iterdir()) == [target]


def test_a_cut_connection_is_resumed_in_the_same_call(web: Web, target: Path) -> None:
    web.cut_after = [1000, 5000, None]
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in web.asked] == [None, "bytes=1000-", "bytes=6000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(web: Web, target: Path, partial: Path) -> None:
    web.cut_after = [1000, 0]
    with pytest.raises(FetchError, match=r"stopped after 1,000 bytes: the connection was cut"):
        download(f"{web.url}/file", target, sha256=DIGEST)
    assert partial.read_bytes() == BODY[:1000]
    web.cut_after = []
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert web.asked[-1] == ("/file", "bytes=1000-")
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_sends_all_again(web: Web, target: Path, partial: Path) -> None:
    web.ranges = False
    partial.write_bytes(BODY[:1000])
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert target.read_bytes() == BODY


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(web: Web, target: Path) -> None:
    web.ranges = False
    web.cut_after = [1000] * 9
    with pytest.raises(FetchError, match="the connection was cut"):
        download(f"{web.url}/file", target, sha256=DIGEST)


def test_a_partial_file_that_was_already_whole_is_taken(web: Web, target: Path, partial: Path) -> None:
    partial.write_bytes(BODY)
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("rubbish", [b"x" * 1000, BODY + b"and more"])
def test_a_partial_file_of_something_else_is_thrown_away(web: Web, target: Path, partial: Path, rubbish: bytes) -> None:
    partial.write_bytes(rubbish)
    download(f"{web.url}/file", target, sha256=DIGEST)
    assert target.read_bytes() == BODY


def test_a_wrong_checksum_leaves_nothing(web: Web, target: Path) -> None:
    with pytest.raises(FetchError) as caught:
        download(f"{web.url}/file", target, sha256="0" * 64)
    assert DIGEST in caught.value.given
    assert caught.value.expected == "0" * 64
    assert not list(target.parent.iterdir())


def test_a_missing_file_and_a_server_that_is_gone_are_named(target: Path) -> None:
    with served() as web, pytest.raises(FetchError, match="404"):
        download(f"{web.url}/nothing", target)
    with pytest.raises(FetchError, match="stopped after 0 bytes"):
        download(f"{web.url}/file", target)


def test_a_local_file_address_works(tmp_path: Path, target: Path) -> None:
    origin = tmp_path / "origin"
    origin.write_bytes(BODY)
    download(origin.as_uri(), target, sha256=DIGEST)
    assert target.read_bytes() == BODY


def test_certificates_that_do_not_exist_are_an_error_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: Path
) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "none.pem"))
    with pytest.raises(FetchError, match="stopped after 0 bytes"):
        download("https://127.0.0.1:9/file", target)
