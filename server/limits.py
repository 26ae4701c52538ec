"""ASGI layer for what a request may cost: the size of its body, the time to send it, the time to answer it.

Nothing is stored here. Bytes are counted as they pass; those of a body that is too large are thrown away.
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundwire.server.errors import ApiError

DRAIN = 16  # times the limit: how much of a body that is too large is read, so that the client sees the answer


class Limits:
    """Answers 413 to a body above `max_body_bytes`, 408 to one that takes longer than `body_timeout` seconds to come,
    504 to a request that is not done after `timeout` seconds."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, body_timeout: float, timeout: float) -> None:
        self.app, self.max_body_bytes, self.body_timeout, self.timeout = app, max_body_bytes, body_timeout, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        asks = headers.get("expect", "").lower() == "100-continue"  # and has not sent anything yet
        body = _Body(receive, self.max_body_bytes, self.body_timeout, drained=asks)
        stated = headers.get("content-length", "")

        async def sending(message: Message) -> None:
            await body.drain()
            await send(message)

        try:
            if stated and "transfer-encoding" in headers:  # a proxy may see the body end elsewhere
                twice = "Send Content-Length or Transfer-Encoding, not both."
                raise ApiError(400, twice, code="invalid_value", headers={"connection": "close"})
            if stated.isdecimal() and int(stated) > self.max_body_bytes:
                raise body.too_large()
            async with asyncio.timeout(self.timeout) as limit:
                await self.app(scope, body.receive, sending)
        except ApiError:
            await body.drain()
            raise
        except TimeoutError:
            if not limit.expired():
                raise
            late = f"The request was not done after {self.timeout:g} seconds."
            raise ApiError(504, late, code="timeout") from None


class _Body:
    """The body of one request as it comes in. `drained`: there is nothing to read on for."""

    def __init__(self, receive: Receive, limit: int, seconds: float, *, drained: bool) -> None:
        self._receive, self._limit, self._seconds = receive, limit, seconds
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._bytes, self._complete, self._drained = 0, False, drained

    async def receive(self) -> Message:
        """The next message. Raises ApiError on too many bytes, and where the whole body is late."""
        if self._complete:  # what follows is the client's leaving, however late
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            late = f"The body of the request did not arrive within {self._seconds:g} seconds."
            raise ApiError(408, late, code="timeout", headers={"connection": "close"}) from None
        self._bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._bytes > self._limit:
            raise self.too_large()
        return message

    async def drain(self) -> None:
        """Before an answer: read on and forget. A client that is still sending when its connection closes may never see
        the answer."""
        if self._complete or self._drained:
            return
        self._drained = True
        try:
            async with asyncio.timeout_at(self._deadline):
                while not self._complete and self._bytes <= DRAIN * self._limit:
                    message = await self._receive()
                    self._bytes += len(message.get("body", b""))
                    self._complete = not message.get("more_body", False)
        except TimeoutError:
            return

    def too_large(self) -> ApiError:
        message = f"The body of the request is larger than {self._limit} bytes."
        return ApiError(413, message, code="request_too_large", headers={"connection": "close"})
