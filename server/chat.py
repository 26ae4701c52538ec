"""POST /v1/chat/completions."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.conversation import found_passages
from groundwire.server.generating import respond
from groundwire.server.permission import check_choices, given_passages
from groundwire.server.protocol_chat import ChatRequest
from groundwire.server.render import ChatRenderer
from groundwire.server.replies import ChatCompletion, ChatCompletionChunk
from groundwire.server.schema import streaming

router = APIRouter()


@router.post("/v1/chat/completions", response_model=None, responses=streaming(ChatCompletion, ChatCompletionChunk))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation; every choice says whether it stays with the passages in it."""
    check_choices(1, body.choices, request.app.state.settings)
    # Looking for passages in megabytes of text takes a while.
    passages = given_passages(body.options, request.app.state.settings)
    found = await asyncio.to_thread(found_passages, body.conversation(), passages)
    return await respond(body, request, ChatRenderer, "chatcmpl", [found])
