"""The generating API where an upstream answers in the place of the model: `upstream_url` is set."""

from __future__ import annotations

import uuid
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from groundwire.errors import InputError
from groundwire.server.disconnect import ClientGone, unless_gone
from groundwire.server.errors import ApiError
from groundwire.server.judge import Judge
from groundwire.server.logs import CLOSED
from groundwire.server.observer import checks_for
from groundwire.server.policies import Rules
from groundwire.server.protocol_gateway import Forwarded, ForwardedChat, ForwardedText
from groundwire.server.relaying import Asked, read_chat, read_text, relayed
from groundwire.server.settings import Settings
from groundwire.server.shapes import Shape, TextShape
from groundwire.server.upstream import upstream_url

router = APIRouter()

# The upstream's own replies, which only it can describe.
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The upstream's reply with a verdict on each choice; in a stream, on its last chunk.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
}

_HALT = "the running score it needs is there only where the model of this server generates"


@router.post("/v1/chat/completions", response_model=None, responses=RESPONSES)
async def chat_completions(body: ForwardedChat, request: Request) -> Response:
    """Have the upstream answer a conversation; every choice says whether it stays with the passages in it."""
    return await _respond(body, request, await read_chat(body, request))


@router.post("/v1/completions", response_model=None, responses=RESPONSES)
async def completions(body: ForwardedText, request: Request) -> Response:
    """Have the upstream complete prompts; every choice says whether it stays with its prompt, or with the passages."""
    return await _respond(body, request, await read_text(body, request))


@router.get("/v1/models", response_model=None)
async def list_models(request: Request) -> Response:
    """The upstream's models."""
    return await _passed(request, "models")


@router.get("/v1/models/{model:path}", response_model=None)
async def get_model(model: str, request: Request) -> Response:
    """One of them."""
    if not model.isprintable() or any(part in ("", ".", "..") for part in model.split("/")):
        raise ApiError(404, "There is no such model.", param="model", code="model_not_found")
    return await _passed(request, f"models/{quote(model)}")


def check_gateway(settings: Settings) -> None:
    """Raise InputError on settings that no gateway can have."""
    upstream_url(settings)
    if settings.policy == "halt":
        raise InputError("policy 'halt' with an upstream_url", expected="another policy", remedy=f"choose one: {_HALT}")


def check_rules(rules: Rules, body: Forwarded, shape: Shape) -> None:
    """Raise ApiError on what cannot be done with answers of another model."""
    if rules.policy == "halt":
        raise _refused("policy", f"'halt' is not available: {_HALT}")
    if rules.policy == "regenerate" and isinstance(shape, TextShape):
        raise _refused("policy", "'regenerate' is a conversation: send it to /v1/chat/completions")
    if body.options.running:
        raise _refused("running", "there is none: it comes with the model's own tokens, and another model generates")


async def _respond(body: Forwarded, request: Request, asked: Asked) -> Response:
    """Answer from the upstream. Raises ApiError."""
    state, checks = request.app.state, checks_for(body.options, request)
    if checks.rules is not None:
        check_rules(checks.rules, body, asked.shape)
    judge = Judge(state.loop, f"gw-{uuid.uuid4().hex}", asked.found, body.choices)
    return await relayed(body, request, asked, checks, judge=judge, upstream=state.upstream)


def _refused(name: str, why: str) -> ApiError:
    return ApiError(400, f"hallucination.{name}: {why}.", param=f"hallucination.{name}", code="unsupported_value")


async def _passed(request: Request, path: str) -> Response:
    upstream = request.app.state.upstream
    try:
        with upstream.admitted():
            return JSONResponse(await unless_gone(request.receive, upstream.get(path)))
    except ClientGone:
        return Response(status_code=CLOSED)
