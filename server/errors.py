"""Every error of the endpoint is `{"error": {"message", "type", "param", "code"}}`, as OpenAI's API writes it.

Raise `ApiError`. What the frameworks and Groundwire itself raise becomes one: nothing else ever reaches a client, and
never a stack trace. Whatever a message repeats of a request is cut to `ECHO` characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from groundwire.errors import GroundwireError, InputError, PromptTooLong

ECHO = 200  # characters of a request that an error may repeat
MESSAGE = 1000
CODES = frozenset({"unsupported_value"})  # kinds of validation errors that are codes of OpenAI's


class ErrorDetail(BaseModel):
    """What went wrong: `param` names the field of the request, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every reply that is not a success."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An error as the client sees it. `kind` is OpenAI's `type`; by default that of the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.message, self.param, self.code = clean(message, MESSAGE), param and clean(param), code
        self.kind = kind or _kind(status)

    def to_dict(self) -> dict[str, Any]:
        """The body of the reply; also what a stream that has begun ends with."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.to_dict(), self.status_code, self.headers)


def clean(text: str, limit: int = ECHO) -> str:
    """`text` cut to `limit` characters, and as UTF-8 can hold it: JSON can spell half a surrogate pair."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return cut.encode("utf-8", "replace").decode()


def server_error() -> ApiError:
    """What a client is told of a fault that is ours; the log knows more."""
    return ApiError(500, "The server had an error while processing your request.", code="internal_error")


def api_error(error: Exception) -> ApiError:
    """Any exception as the client may see it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors()[0], error.body)
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, PromptTooLong):
        return ApiError(400, _sentence(error), param="messages", code="context_length_exceeded")
    if isinstance(error, InputError):
        return ApiError(400, _sentence(error), code="invalid_value")
    return server_error()


def install(app: FastAPI) -> None:
    """Have `app` answer every error in this form."""
    for kind in (HTTPException, RequestValidationError, GroundwireError):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    found = api_error(error)
    if found.status_code == HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, ApiError):
        raise error  # for the outermost layer, which logs it
    return found.response()


def _kind(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == HTTPStatus.TOO_MANY_REQUESTS else "invalid_request_error"


def _sentence(error: GroundwireError) -> str:
    """A Groundwire error in one line."""
    return " ".join(str(error).split())


def _http(error: HTTPException) -> ApiError:
    """What the router itself refuses: an unknown path, a wrong method, a body that is no JSON."""
    status = error.status_code
    messages = {
        404: ("There is nothing at this URL.", "not_found"),
        405: ("This URL does not take requests of this method.", "method_not_allowed"),
    }
    if status == HTTPStatus.BAD_REQUEST:
        return ApiError(400, "The body of the request could not be read as JSON in UTF-8.", code="invalid_json")
    message, code = messages.get(status, (HTTPStatus(status).phrase, None))
    return ApiError(status, message, code=code, headers=error.headers)


def _invalid(first: Mapping[str, Any], body: Any) -> ApiError:
    """Pydantic's first complaint, with the field as OpenAI names it: `messages[0].role`."""
    place, kind, given = list(first["loc"]), first["type"], first.get("input")
    if kind == "json_invalid":
        why = clean(str(first.get("ctx", {}).get("error", "")))
        return ApiError(400, f"The body of the request is not valid JSON: {why}.", code="invalid_json")
    if isinstance(given, bytes):
        remedy = "Send JSON, with the header Content-Type: application/json."
        return ApiError(400, f"The body of the request is not JSON. {remedy}", code="invalid_json")
    param = _param(place[1:], body, missing=kind == "missing")
    where = f"'{clean(param)}'" if param else "the body of the request"
    if kind == "missing":
        missing = f"Missing required parameter: {where}." if param else "The request has no body; JSON was expected."
        return ApiError(400, missing, param=param, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: {where}.", param=param, code="unknown_parameter")
    message = f"Invalid value for {where}: {clean(first['msg'])}. Given: {clean(_shown(given), 60)}."
    return ApiError(400, message, param=param, code=kind if kind in CODES else "invalid_value")


def _param(place: Sequence[str | int], body: Any, *, missing: bool) -> str | None:
    """The field at `place` in `body`. Where it may be of several types, `place` also names one: that is left out."""
    named, value = "", body
    for i, part in enumerate(place):
        if isinstance(value, Mapping) and (part in value or (missing and i == len(place) - 1)):
            named, value = f"{named}.{part}", value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            named, value = f"{named}[{part}]", value[part]
    return named.removeprefix(".") or None


def _shown(value: Any) -> str:
    """The value's type, and itself where it is short: a `repr` of all of a large body would be one more copy of it."""
    if isinstance(value, str):
        return repr(value[:ECHO])
    plain = value is None or isinstance(value, bool | int | float)
    return f"{value!r}" if plain else type(value).__name__
