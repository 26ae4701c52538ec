"""POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.server.generating import respond
from groundwire.server.passages import Found, found_passages
from groundwire.server.protocol_completion import CompletionRequest
from groundwire.server.render import TextRenderer
from groundwire.server.replies import Completion, CompletionChunk
from groundwire.server.schema import streaming
from groundwire.types import Message, Passage

router = APIRouter()


@router.post("/v1/completions", response_model=None, responses=streaming(Completion, CompletionChunk))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Complete prompts; every choice says whether it stays with its prompt, or with the passages of the request."""
    given = body.options.given()
    return await respond(body, request, TextRenderer, "cmpl", [prompt_passages(m, given) for m in body.conversations()])


def prompt_passages(messages: Sequence[Message], given: Sequence[Passage] | None) -> Found:
    """A prompt counts as its own passages, as in `groundwire score`, where the request names none."""
    if given is not None:
        return found_passages(messages, given)
    blank = not any(message["content"].strip() for message in messages)
    return Found((), "no_passages" if blank else None, tuple(messages))
