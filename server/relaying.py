"""From a request to the answers of what answers it: what the routers share that do not generate themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from groundwire.conversation import Found, found_passages
from groundwire.server.completions import prompts_passages
from groundwire.server.judge import Judge
from groundwire.server.observer import Checks, marked
from groundwire.server.passing import Passing
from groundwire.server.permission import check_choices, given_passages
from groundwire.server.protocol_gateway import (
    Forwarded,
    ForwardedChat,
    ForwardedText,
    encoded,
    outgoing,
    readable,
    with_passages,
    without_ours,
)
from groundwire.server.relay import Answerer, Order, Relay
from groundwire.server.render import Show
from groundwire.server.shapes import ChatShape, Shape, TextShape


@dataclass(frozen=True)
class Asked:
    """A request that was read. given: its body, passages included. found: what the answers to each prompt must stay
    with."""

    shape: Shape
    given: dict[str, Any]
    found: Sequence[Found]


async def read_chat(body: ForwardedChat, request: Request) -> Asked:
    """A conversation. Raises ApiError where it cannot be passed on."""
    given = await sent_body(request)
    check_choices(1, body.choices, request.app.state.settings)
    read = readable(body.messages)
    passages = given_passages(body.options, request.app.state.settings)
    found = await asyncio.to_thread(found_passages, read, passages)
    given["messages"] = with_passages([without_ours(m) for m in given["messages"]], read, found.messages)
    return Asked(ChatShape(), given, [found])


async def read_text(body: ForwardedText, request: Request) -> Asked:
    """Prompts to complete. Raises ApiError where they cannot be passed on."""
    given = await sent_body(request)
    check_choices(len(body.prompt), body.choices, request.app.state.settings)
    passages = given_passages(body.options, request.app.state.settings)
    found = await asyncio.to_thread(prompts_passages, body.prompt, passages)
    prompts = [one.messages[-1]["content"] for one in found]
    if prompts != body.prompt:
        given["prompt"] = prompts
    return Asked(TextShape(), given, found)


async def sent_body(request: Request) -> dict[str, Any]:
    """The body as it came. Raises ApiError where it cannot be passed on."""
    given = await request.json()
    encoded(outgoing(given))
    return given


async def relayed(
    body: Forwarded,
    request: Request,
    asked: Asked,
    checks: Checks,
    *,
    judge: Judge,
    upstream: Answerer,
    running: bool = False,
) -> Response:
    """The answers of `upstream`. running: whether content chunks carry the judge's scores so far. Raises ApiError."""
    options = body.options
    show = Show(options.top_terms, options.tokens, running, options.mirror, body.include_usage)
    relay = Relay(request, Order(asked.shape, asked.given, judge, upstream, checks.rules, show, checks.observe))
    if not body.stream:
        response = await relay.whole()
    elif checks.rules is not None and checks.rules.held:
        response = await relay.stream()
    else:
        response = await relay.stream(Passing(relay).events())
    return marked(response) if checks.observing else response
