"""The API that generates in the place of the model: an HTTP client that fails with errors a client may see.

Redirects are not followed, and a client's own credentials never reach it: it gets the operator's key, or none. What it
says of an error is passed on with its status; a refusal of the operator's key is not the client's to know.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx

from groundwire import __version__
from groundwire.errors import InputError
from groundwire.server.errors import ApiError
from groundwire.server.jobs import QueueFull
from groundwire.server.protocol_gateway import encoded
from groundwire.server.settings import Settings
from groundwire.server.sse import DONE, payloads

REPLY_BYTES = 32 << 20  # most of one answer, streamed or not
EVENT_BYTES = 4 << 20  # and of one event
ERROR_BYTES = 64 << 10
CONNECT_SECONDS = 10.0
TRUNCATED = "upstream_truncated"


class Upstream:
    """The API at `upstream_url`. So many clients' requests may be under way as the engine would generate and queue.

    Raises InputError on a URL that cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        key = settings.upstream_key.get_secret_value() if settings.upstream_key else None
        self._secret, self._seconds = key, settings.upstream_timeout
        self._most, self._under_way = settings.max_batch + settings.max_queue, 0
        self._client = httpx.AsyncClient(
            base_url=upstream_url(settings),
            headers={
                "user-agent": f"groundwire/{__version__}",
                "accept-encoding": "identity",  # events are passed on as they come, and sizes are what they seem
                **({"authorization": f"Bearer {key}"} if key else {}),
            },
            timeout=httpx.Timeout(self._seconds, connect=min(self._seconds, CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=self._most, max_keepalive_connections=self._most),
            follow_redirects=False,
        )

    @property
    def under_way(self) -> int:
        """Clients' requests that are not over."""
        return self._under_way

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Room for a client's request until its verdicts are there: the reader may be slower than the upstream. Raises
        QueueFull."""
        if self._under_way >= self._most:
            raise QueueFull(1)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def get(self, path: str) -> dict[str, Any]:
        """The object at `path`. Raises ApiError, as all of the following do."""
        async with self._reply("GET", path, None, {}) as response:
            return _object(await self._read(response, REPLY_BYTES))

    async def ask(self, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The reply to a request that is not streamed. `name` is the request's id, for the upstream's log."""
        async with self._reply("POST", path, body, {"x-request-id": name}) as response:
            return _object(await self._read(response, REPLY_BYTES))

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], name: str
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any]]]:
        """The chunks of a streamed reply, which has begun. Code TRUNCATED is raised where it ends without its last
        event."""
        async with self._reply("POST", path, body, {"x-request-id": name}) as response:
            if "json" in response.headers.get("content-type", ""):
                raise malformed("it was asked to stream, and did not")
            async with aclosing(_chunks(self._bounded(response, REPLY_BYTES), self._said)) as chunks:
                yield chunks

    @asynccontextmanager
    async def _reply(
        self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """A response of status 200 whose body has not been read. What fails while it is read becomes an ApiError."""
        sent = {**headers, **({} if body is None else {"content-type": "application/json"})}
        content = None if body is None else encoded(body)
        with self._failures():
            async with self._client.stream(method, path, content=content, headers=sent) as response:
                if response.status_code != 200:
                    raise await self._refused(response)
                yield response

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Failures of the connection as errors a client may see."""
        try:
            yield
        except httpx.TimeoutException as error:
            late = f"The upstream did not answer within {self._seconds:g} seconds."
            raise ApiError(504, late, code="upstream_timeout") from error
        except (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.ProxyError) as error:
            raise ApiError(502, "The upstream could not be reached.", code="upstream_unreachable") from error
        except httpx.HTTPError as error:
            raise ApiError(502, "The upstream broke off its reply.", code="upstream_disconnected") from error

    async def _refused(self, response: httpx.Response) -> ApiError:
        """An error of the upstream, for the client."""
        status = response.status_code
        if status in (401, 407):
            return ApiError(502, "The upstream refused this server's credentials.", code="upstream_unauthorized")
        if status < 400:
            return malformed(f"status {status}")
        try:
            said = json.loads(await self._read(response, ERROR_BYTES))
        except (ValueError, ApiError, RecursionError):
            said = None
        after = response.headers.get("retry-after")
        return self._said(said, status, {"retry-after": after} if after else None)

    def _said(self, said: Any, status: int = 502, headers: Mapping[str, str] | None = None) -> ApiError:
        """The error in what the upstream said, in OpenAI's form or one near it; without the operator's key."""
        error = said.get("error", said) if isinstance(said, dict) else None
        error = error if isinstance(error, dict) else {"message": error}
        message = error.get("message")
        if not isinstance(message, str) or not message:
            message, error = f"The upstream answered with status {status}.", {"code": "upstream_error"}
        if self._secret:
            message = message.replace(self._secret, "***")
        kind, param, code = (_word(error.get(name)) for name in ("type", "param", "code"))
        return ApiError(status, message, kind=kind, param=param, code=code, headers=headers)

    async def _read(self, response: httpx.Response, limit: int) -> bytes:
        return b"".join([part async for part in self._bounded(response, limit)])

    async def _bounded(self, response: httpx.Response, limit: int) -> AsyncGenerator[bytes]:
        size = 0
        with self._failures():
            async for part in response.aiter_bytes():
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                yield part


def upstream_url(settings: Settings) -> httpx.URL:
    """The base of its paths, as OpenAI's clients take it: https://api.openai.com/v1. Raises InputError."""
    try:
        url = httpx.URL(settings.upstream_url or "")
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InputError(
            "an upstream_url that is no base URL",
            expected="one such as https://api.openai.com/v1, without a query",
            remedy="correct it; its key belongs in upstream_key",
        )
    return url


def malformed(what: str) -> ApiError:
    """What the upstream sent cannot be understood."""
    return ApiError(502, f"The upstream's reply cannot be read: {what}.", code="upstream_malformed")


async def _chunks(parts: AsyncGenerator[bytes], error_in: Callable[[Any], ApiError]) -> AsyncGenerator[dict[str, Any]]:
    async with aclosing(parts), aclosing(payloads(parts, EVENT_BYTES)) as events:
        try:
            async for data in events:
                if data.strip() == DONE:
                    return
                chunk = _object(data)
                if chunk.get("error"):
                    raise error_in(chunk)
                yield chunk
        except ValueError:
            raise _too_large(EVENT_BYTES) from None
    raise ApiError(502, "The upstream's answer broke off before its end.", code=TRUNCATED)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise malformed("it is not JSON") from None
    if not isinstance(found, dict):
        raise malformed("it is not an object")
    return found


def _too_large(limit: int) -> ApiError:
    return ApiError(502, f"The upstream sent more than {limit} bytes.", code="upstream_too_large")


def _word(value: Any) -> str | None:
    """A name or a number as an error holds it."""
    return str(value)[:100] if isinstance(value, str | int) and not isinstance(value, bool) else None
