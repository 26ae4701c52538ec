"""Structured logs, one JSON object per line, and the outermost layer of the app that writes one per request.

Nothing of a prompt, a passage or an answer is ever logged: of an exception its type and where it was raised, not its
message, which may quote them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import traceback
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from groundwire.server.errors import ApiError, api_error, clean
from groundwire.server.metrics import Metrics
from groundwire.server.tracing import Tracing

logger = logging.getLogger("groundwire.server")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
CLOSED = 499  # what proxies log for a client that left before it was answered
STATE = "groundwire"  # key in the ASGI scope
FAREWELL = 5.0  # seconds a client has to take in the error that ends its reply: it may long have stopped reading


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, event, and the fields it was logged with."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line |= described(record.exc_info[1])
        return json.dumps(line, default=str)


def described(error: BaseException) -> dict[str, Any]:
    """An exception for the log: its type and where it came from. Its message may quote a request, so it stays out."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__qualname__, "at": [f"{frame.filename}:{frame.lineno}" for frame in frames[-12:]]}


def configure(level: str) -> None:
    """Send the process's logs to standard error as JSON lines, from `level` on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for logger in map(logging.getLogger, ("uvicorn", "uvicorn.error")):  # which may have handlers of their own
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the line per request is ours
    if level != "debug":
        for chatty in ("httpx", "httpcore"):
            logging.getLogger(chatty).setLevel(logging.WARNING)


def configure_ours(level: str) -> None:
    """Send our own logs alone to standard error, from `level` on, in a process whose logs are somebody else's."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    ours = logging.getLogger("groundwire")
    ours.handlers[:] = [handler]
    ours.setLevel(level.upper())
    ours.propagate = False


def request_id(request: Request) -> str:
    """The request's id: the client's own where it sent a sane one."""
    return request.scope[STATE]["request_id"]


def note(request: Request, **fields: Any) -> None:
    """Add fields (numbers, states; never text of a request) to the line that will be logged for this request."""
    request.scope[STATE]["notes"].update(fields)


class RequestLog:
    """Outermost ASGI layer: names the request, times it, counts it, logs it, and answers what nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing) -> None:
        self.app, self.metrics, self.tracing = app, metrics, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        scope[STATE] = {"request_id": name, "notes": {}}
        with self.tracing.request(scope, Headers(scope=scope)) as traced:
            await self._answer(scope, receive, _Reply(send, name), name, traced)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply, name: str, traced: dict[str, Any]) -> None:
        start = perf_counter()
        try:
            await self.app(scope, receive, reply.send)
        except asyncio.CancelledError:  # the server is stopping and will wait no longer
            await reply.fail(ApiError(503, "The server is shutting down.", code="shutting_down"))
            raise
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.error("exception", extra={"fields": {"request_id": name, **described(error)}})
            await reply.fail(api_error(error))
        finally:
            traced.update(status=reply.status or CLOSED, notes=scope[STATE]["notes"])
            self._log(scope, name, reply, perf_counter() - start)

    def _log(self, scope: Scope, name: str, reply: _Reply, seconds: float) -> None:
        status = reply.status or CLOSED
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        self.metrics.request(scope["method"], route, status, seconds)
        fields = {
            "request_id": name,
            "method": clean(scope["method"], 16),
            "path": clean(scope["path"]),
            "status": status,
            "ms": round(seconds * 1000, 1),
            **({} if reply.finished else {"unfinished": True}),
            **scope[STATE]["notes"],
        }
        logger.info("request", extra={"fields": fields})


class _Reply:
    """What has been sent of one reply, and how to end it with an error."""

    def __init__(self, send: Send, name: str) -> None:
        self._send, self._name = send, name
        self.status: int | None = None
        self.finished = self._events = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._name
            self._events = headers.get("content-type", "").startswith("text/event-stream")
            self.status = message["status"]
        await self._send(message)
        if message["type"] == "http.response.body":
            self.finished = not message.get("more_body", False)

    async def fail(self, error: ApiError) -> None:
        """Answer with `error`, or end a stream of events with it. Any other reply that has begun stays cut off."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._fail(error)

    async def _fail(self, error: ApiError) -> None:
        if self.status is None:
            response = error.response()
            await self.send(
                {"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers}
            )
            await self.send({"type": "http.response.body", "body": response.body})
        elif self._events and not self.finished:
            data = json.dumps(error.to_dict())
            await self.send({"type": "http.response.body", "body": f"data: {data}\n\n".encode()})
