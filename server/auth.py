"""API keys: kept as SHA-256, compared in constant time. What is open without one is a list; all else is closed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from groundwire.errors import InputError
from groundwire.server.errors import ApiError
from groundwire.server.logs import STATE
from groundwire.server.settings import SHA256, Settings

OPEN_PATHS = frozenset({"/", "/health", "/ready", "/version"})
OPEN_PREFIX = "/static/"  # the page's own files
METRICS = "/metrics"


def hash_key(key: str) -> str:
    """SHA-256 of a key, hexadecimal: what the server keeps of it."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """The keys that are known: names by SHA-256. None at all: everything is open."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {digest.encode(): name for digest, name in names.items()}

    def __bool__(self) -> bool:
        return bool(self._names)

    @classmethod
    def of(cls, settings: Settings) -> Keys:
        """The settings' own and those of their file. Raises InputError where the file cannot be read or holds none."""
        names = {digest: digest[:8] for digest in settings.api_keys}
        return cls(names | _read(settings.api_keys_file) if settings.api_keys_file else names)

    def name_of(self, key: str) -> str | None:
        """The name of a key, None where it is unknown. Takes as long whichever key it is, or none."""
        digest, found = hash_key(key).encode(), None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


class Auth:
    """ASGI layer that lets requests with a known key pass, and those to open paths; others are answered 401."""

    def __init__(self, app: ASGIApp, keys: Keys, *, metrics_open: bool = False) -> None:
        self.app, self.keys = app, keys
        self.open = OPEN_PATHS | {METRICS} if metrics_open else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self.keys or self._is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist("authorization")
        kind, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer" or not key.strip():
            raise _refused("You didn't provide an API key. Send it as the header 'Authorization: Bearer YOUR_KEY'.")
        name = self.keys.name_of(key.strip().encode("latin-1").decode("utf-8", "surrogateescape"))  # headers are bytes
        if name is None:
            raise _refused("Incorrect API key provided.", code="invalid_api_key")
        scope[STATE]["notes"]["key"] = name
        await self.app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self.open or path.startswith(OPEN_PREFIX)


def _refused(message: str, code: str | None = None) -> ApiError:
    return ApiError(401, message, code=code, headers={"www-authenticate": "Bearer"})


def _read(path: Path) -> dict[str, str]:
    """Names by hash: the comment behind a hash, or else how it begins."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, "it cannot be read") from error
    names = {}
    for number, line in enumerate(lines, 1):
        digest, _, name = line.partition("#")
        digest = digest.strip().lower()
        if digest and not SHA256.fullmatch(digest):
            raise _unreadable(path, f"line {number} is no SHA-256")  # which may be a key: it is not repeated
        if digest:
            names[digest] = name.strip() or digest[:8]
    if not names:
        raise _unreadable(path, "it holds no key")
    return names


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"API keys in {str(path)!r}: {why}",
        expected="a SHA-256 in hexadecimal per line, and perhaps `# a name`",
        remedy="make the lines with `groundwire serve --hash-key`",
    )
