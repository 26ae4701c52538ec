"""vLLM's own handlers as what answers a request: templates, tools, reasoning, formats and usage are theirs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from groundwire.server.errors import ApiError, api_error
from groundwire.server.relay import Sent
from groundwire.server.vllm.follow import Follow

Chunk = dict[str, Any]


class Handler:
    """Answers one client's request inside vLLM's process; see `Answering`.

    state: of vLLM's app. request: the client's, as vLLM's app has it. follow: of what is generated first; a second
    attempt is not followed: it is judged by what was asked at first. None where nothing is.
    """

    def __init__(self, state: Any, request: Request, follow: Follow | None) -> None:
        self._state, self._request, self._follow, self._asked = state, request, follow, False

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """vLLM has its own limits: there is always room here."""
        try:
            yield
        finally:
            if self._follow is not None:
                self._follow.close()

    async def ask(self, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        """The reply to a request that is not streamed. Raises ApiError."""
        found = await self._answer(path, body)
        return found if isinstance(found, dict) else found.model_dump()

    @asynccontextmanager
    async def stream(self, path: str, body: Mapping[str, Any], name: str) -> AsyncIterator[AsyncGenerator[Chunk]]:
        """The chunks of a streamed reply. Raises ApiError."""
        async with aclosing(_chunks(await self._answer(path, body))) as chunks:
            yield chunks

    async def _answer(self, path: str, body: Mapping[str, Any]) -> Any:
        follow = None if self._asked else self._follow
        if self._asked and self._follow is not None:
            self._follow.close()
        self._asked = True
        try:
            if follow is None or body.get("use_beam_search"):
                found = await self._handled(path, body)
            else:
                with follow.current():
                    found = await self._handled(path, body)
        except ApiError:
            raise
        except Exception as error:
            raise _failed(error) from error
        if type(found).__name__ == "ErrorResponse":
            raise _refused(found)
        return found

    async def _handled(self, path: str, body: Mapping[str, Any]) -> Any:
        chat = path == "chat/completions"
        if chat:
            from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest as Kind
        else:
            from vllm.entrypoints.openai.completion.protocol import CompletionRequest as Kind
        handler = getattr(self._state, "openai_serving_chat" if chat else "openai_serving_completion", None)
        if handler is None:
            raise ApiError(501, "The model does not support this API.", code="not_supported")
        try:
            given = Kind.model_validate(dict(body))
        except ValidationError as error:
            wrong = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
            raise api_error(RequestValidationError(wrong, body=dict(body))) from None
        create = handler.create_chat_completion if chat else handler.create_completion
        return await create(given, self._request)


async def _chunks(events: AsyncGenerator[str]) -> AsyncGenerator[Chunk]:
    """What vLLM's server-sent events say. Raises ApiError on an event that is an error."""
    async with aclosing(events):
        async for event in events:
            data = event.removeprefix("data:").strip()
            if data == "[DONE]":
                return
            if not data or event.startswith(":"):
                continue
            chunk = json.loads(data)
            if chunk.get("error"):
                error = chunk["error"]
                raise ApiError(_status(error.get("code")), str(error.get("message")), kind=error.get("type"))
            yield Sent(chunk, event.encode())


def _failed(error: Exception) -> ApiError:
    """What vLLM's handlers raise, as vLLM itself would answer it."""
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    return _refused(create_error_response(error))


def _refused(response: Any) -> ApiError:
    error = response.error
    return ApiError(_status(error.code), error.message, kind=error.type, param=error.param)


def _status(code: Any) -> int:
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
