"""POST /v1/completions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.conversation import Found, found_passages
from groundwire.server.generating import respond
from groundwire.server.permission import check_choices, given_passages
from groundwire.server.protocol_completion import CompletionRequest
from groundwire.server.render import TextRenderer
from groundwire.server.replies import Completion, CompletionChunk
from groundwire.server.schema import streaming
from groundwire.types import Message, Passage

router = APIRouter()


@router.post("/v1/completions", response_model=None, responses=streaming(Completion, CompletionChunk))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Complete prompts; every choice says whether it stays with its prompt, or with the passages of the request."""
    check_choices(len(body.prompt), body.choices, request.app.state.settings)
    passages = given_passages(body.options, request.app.state.settings)
    found = await asyncio.to_thread(prompts_passages, body.prompt, passages)
    return await respond(body, request, TextRenderer, "cmpl", found)


def prompts_passages(prompts: Sequence[str], given: Sequence[Passage] | None) -> list[Found]:
    """`prompt_passages` of each prompt, as one user message. In megabytes of text it takes a while."""
    return [prompt_passages([{"role": "user", "content": prompt}], given) for prompt in prompts]


def prompt_passages(messages: Sequence[Message], given: Sequence[Passage] | None) -> Found:
    """A prompt counts as its own passages, as in `groundwire score`, where the request names none."""
    if given is not None:
        return found_passages(messages, given)
    blank = not any(message["content"].strip() for message in messages)
    return Found((), "no_passages" if blank else None, tuple(messages))
