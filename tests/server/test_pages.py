"""The page's files over HTTP; `page/` has the page in a browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from groundwire.server.auth import hash_key
from groundwire.server.pages import POLICY, STATIC
from groundwire.server.settings import Settings

FILES = sorted(set(STATIC) - {"index.html"})
KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@pytest.fixture(scope="module")
def closed(serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    """A server that wants a key."""
    with serving(settings=Settings(api_keys=(hash_key("k"),))) as running:
        yield running


def known(page: str) -> dict[str, Any]:
    """The settings that a page was told."""
    return json.loads(html.unescape(re.search(r'data-settings="([^"]*)"', page)[1]))


def test_the_page_is_open(closed):
    reply = closed.client.get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Groundwire</title>" in reply.text


@pytest.mark.parametrize("name", FILES)
def test_its_files_are_open_and_of_their_type(closed, name):
    reply = closed.client.get(f"/static/{name}")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == KINDS[name.rpartition(".")[2]]
    assert reply.content == STATIC[name]


def test_every_file_that_is_named_is_there(closed):
    named = set(re.findall(r'(?:href|src)="static/([^"]+)"', closed.client.get("/").text))
    for name in FILES:
        named |= set(re.findall(r'from "\./([^"]+)"', STATIC[name].decode()))
    assert named == set(FILES)


def test_nothing_comes_from_elsewhere():
    namespace = "http://www.w3.org/2000/svg"
    found = {name: re.findall(r"(?:https?:)?//[a-z][^\s\"']*", body.decode()) for name, body in STATIC.items()}
    assert {name: urls for name, urls in found.items() if set(urls) - {namespace}} == {}


@pytest.mark.parametrize("path", ["/", "/static/page.js"])
def test_the_headers_are_strict(closed, path):
    headers = closed.client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in POLICY
    assert {"default-src 'none'", "script-src 'self'", "trusted-types 'none'"} <= set(POLICY.split("; "))


@pytest.mark.parametrize("path", ["/", "/static/page.css"])
def test_what_is_cached_is_asked_for_again_and_not_sent_twice(closed, path):
    first = closed.client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = closed.client.get(path, headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["content-security-policy"] == POLICY
    assert closed.client.get(path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/page.css"])
def test_head_has_no_body(closed, path):
    reply = closed.client.head(path)
    assert (reply.status_code, reply.content) == (200, b"")
    assert int(reply.headers["content-length"]) > 1000


def test_other_methods_are_refused_as_everywhere(closed):
    reply = closed.client.post("/", json={})
    assert reply.status_code == 405
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static",
        "/static/index.html",
        "/static/nothing.js",
        "/static/..",
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e%2fpages.py",
        "/static/%252e%252e/pages.py",
        "/static/..\\pages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/page.js%00.css",
        "/static/page.js/",
        "/static/PAGE.JS",
        "/index.html",
    ],
)
def test_no_path_leads_to_anything_else(closed, path):
    with closed.connect() as connection:  # clients would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert reply.split()[1] in ((b"404",) if path.startswith("/static/") else (b"401",))
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_it_is_told_what_this_server_allows(closed, served):
    open_ = served(settings=Settings(policy="redact", allowed_policies=("redact", "block"), served_model_name="house"))
    told = known(open_.client.get("/").text)
    assert told["model"] == "house"
    assert (told["policy"], told["policies"], told["key"]) == ("redact", ["redact", "block"], False)
    assert known(closed.client.get("/").text)["key"] is True
    assert "k" not in known(closed.client.get("/").text).values()
    assert hash_key("k") not in closed.client.get("/").text


def test_a_name_cannot_become_markup(served):
    name = '"><script>alert(1)</script>&quot;'
    page = served(settings=Settings(served_model_name=name)).client.get("/").text
    assert "<script>alert" not in page
    assert known(page)["model"] == name
