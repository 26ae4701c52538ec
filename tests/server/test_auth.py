"""Keys: known ones pass, by name; everything but an allowlist is closed to others, however the path is spelled."""

from __future__ import annotations

import hmac

import pytest

from groundwire.errors import InputError
from groundwire.server import auth
from groundwire.server.auth import Keys, hash_key
from groundwire.server.settings import Settings

ONE, TWO = "key-of-one", "key-of-two"
CLOSED = ["/v1/models", "/v1/detect", "/v1/chat/completions", "/metrics", "/openapi.json", "/nothing", "//health"]


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    path.write_text(f"# the keys\n\n{hash_key(ONE)}  # search team\n{hash_key(TWO).upper()}\n")
    return path


@pytest.fixture(scope="module")
def closed(serving, keys_file):
    with serving(settings=Settings(api_keys_file=keys_file, api_keys=(hash_key("third"),))) as server:
        yield server


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", [ONE, TWO, "third"])
def test_a_known_key_passes(closed, key):
    assert closed.client.get("/v1/models", headers=bearer(key)).status_code == 200


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_is_closed(closed, path):
    reply = closed.client.get(closed.base_url + path)
    error = reply.json()["error"]
    assert (reply.status_code, error["type"], error["code"]) == (401, "invalid_request_error", None)
    assert "didn't provide an API key" in error["message"]
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ready", "/version"])
def test_open_paths_are_open(closed, path):
    assert closed.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/health/../v1/models",
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/health/",
        "/health%2f..%2fv1/models",
        "/v1/models?x=/health",
        "/%2fhealth/../v1/models",
    ],
)
def test_no_spelling_of_a_path_opens_it(closed, path):
    with closed.connect() as connection:  # clients would tidy the path up
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    assert reply.split()[1] in (b"401", b"404")
    assert b'"object"' not in reply


@pytest.mark.parametrize(
    "headers",
    [
        bearer("wrong-key"),
        bearer(ONE + "x"),
        bearer(hash_key(ONE)),
        {"authorization": "Bearer"},
        {"authorization": ONE},
        {"authorization": f"Basic {ONE}"},
        {"authorization": b"Bearer \xff\xfe"},
        [("authorization", f"Bearer {ONE}"), ("authorization", "Bearer wrong-key")],
        {"x-api-key": ONE},
    ],
)
def test_anything_but_a_known_key_is_refused_and_not_repeated(closed, headers):
    reply = closed.client.post("/v1/detect", json={}, headers=headers)
    assert reply.status_code == 401
    assert "wrong-key" not in reply.text
    assert hash_key(ONE) not in reply.text


def test_a_wrong_key_says_so_as_openai_does(closed):
    error = closed.client.get("/v1/models", headers=bearer("wrong-key")).json()["error"]
    assert error == {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


def test_a_key_beyond_ascii_is_a_key(served):
    server = served(settings=Settings(api_keys=(hash_key("schlüssel"),)))
    assert server.client.get("/v1/models", headers=[(b"authorization", "Bearer schlüssel".encode())]).status_code == 200


def test_metrics_may_be_opened(served):
    server = served(settings=Settings(api_keys=(hash_key(ONE),), metrics_open=True))
    assert server.client.get("/metrics").status_code == 200
    assert server.client.get("/v1/models").status_code == 401


def test_without_keys_everything_is_open(served):
    assert served().client.get("/v1/models").status_code == 200


def test_every_known_key_is_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or a == b)
    keys = Keys({hash_key(name): name for name in ("a", "b", "c")})
    assert [keys.name_of("a"), keys.name_of("c"), keys.name_of("x")] == ["a", "c", None]
    assert len(compared) == 9  # the first match does not end the search
    assert auth.hmac is hmac


def test_names_come_from_the_comments(keys_file):
    keys = Keys.of(Settings(api_keys_file=keys_file))
    assert (keys.name_of(ONE), keys.name_of(TWO)) == ("search team", hash_key(TWO)[:8])


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "no key"), ("# none\n", "no key"), ("sk-secret\n", "line 1 is no SHA-256"), (None, "read")],
)
def test_a_file_without_keys_never_opens_the_server(tmp_path, content, why):
    path = tmp_path / "keys.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=why) as raised:
        Keys.of(Settings(api_keys_file=path))
    assert "secret" not in str(raised.value)
