"""The generating API where vLLM writes the answers in this very process: its own handlers behind our verdicts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.answering import added_by
from groundwire.conversation import Found
from groundwire.server.completions import prompts_passages
from groundwire.server.errors import ApiError
from groundwire.server.gateway import check_rules, conversed, relayed
from groundwire.server.judge import Judge
from groundwire.server.permission import check_choices, given_passages, rules_for
from groundwire.server.policies import Rules
from groundwire.server.protocol_gateway import Forwarded, ForwardedChat
from groundwire.server.shapes import ChatShape, Shape, TextShape
from groundwire.server.vllm.follow import Added, Follow
from groundwire.server.vllm.handler import Handler
from groundwire.server.vllm.judge import OwnJudge
from groundwire.source import Source
from groundwire.types import Example

router = APIRouter()


class ServedChat(ForwardedChat):
    """A chat completion: all that vLLM takes."""

    model: str | None = None  # type: ignore[assignment]


class ServedText(Forwarded):
    """A text completion: all that vLLM takes, token ids included."""

    model: str | None = None  # type: ignore[assignment]
    prompt: Any = None


@router.post("/v1/chat/completions", response_model=None)
async def chat_completions(body: ServedChat, request: Request) -> Response:
    """Answer a conversation; every choice says whether it stays with the passages in it."""
    given, found = await conversed(body, request)
    return await _respond(body, request, ChatShape(), given, [found])


@router.post("/v1/completions", response_model=None)
async def completions(body: ServedText, request: Request) -> Response:
    """Complete prompts; every choice says whether it stays with its prompt, or with the passages."""
    state, given = request.app.state, await request.json()
    if body.model_extra and body.model_extra.get("echo"):
        raise ApiError(
            400, "echo: a repeated prompt cannot be told from the answer; leave it out.", code="unsupported_value"
        )
    prompts = _prompts(body.prompt)
    check_choices(len(prompts), body.choices, state.settings)
    texts = await asyncio.to_thread(_texts, prompts, state.detector.tokenizer if state.own else None)
    passages = given_passages(body.options, state.settings)
    found = await asyncio.to_thread(prompts_passages, texts, passages)
    wanted = [one.messages[-1]["content"] for one in found]
    if wanted != texts:
        given["prompt"] = wanted
    return await _respond(body, request, TextShape(), given, found)


async def _respond(
    body: Forwarded, request: Request, shape: Shape, given: dict[str, Any], found: Sequence[Found]
) -> Response:
    state = request.app.state
    rules = rules_for(body.options, state.settings, state.detector)
    name = f"vllm-{uuid.uuid4().hex}"
    outer = Request({**request.scope, "app": state.vllm_app}, request.receive)
    if not state.own:
        if rules is not None:
            check_rules(rules, body, shape)
        judge = Judge(state.loop, name, found, body.choices)
        return await relayed(body, request, shape, given, judge=judge, upstream=Handler(state.vllm, outer, None))
    if rules is not None and rules.policy == "regenerate" and isinstance(shape, TextShape):
        check_rules(rules, body, shape)
    follow = _follow(body, state, shape, rules, found, name)
    own = OwnJudge(state.loop, name, found, body.choices, follow, state.own.link, state.vllm.engine_client)
    return await relayed(body, request, shape, given, judge=own, upstream=Handler(state.vllm, outer, follow))


def _follow(
    body: Forwarded, state: Any, shape: Shape, rules: Rules | None, found: Sequence[Found], name: str
) -> Follow | None:
    """How the answers are followed; None where nothing is checked before they go out. Raises ApiError."""
    if rules is None or state.observer is not None:
        return None
    halts = rules.halts if rules.policy == "halt" else None
    late = state.reasons and isinstance(shape, ChatShape)
    if late and (halts or body.options.running):
        name = "policy" if halts else "running"
        why = "there is no score so far where reasoning is taken out of the answer"
        raise ApiError(400, f"hallucination.{name}: {why}.", param=f"hallucination.{name}", code="unsupported_value")
    added: list[Added] = []
    if halts or body.options.running:
        for one in found:
            example = Example(name, one.messages, "", passages=one.passages)
            sources = [Source.of(example)] * body.choices
            added += [added_by(state.detector.artifact.grounding, source) for source in sources]
    return Follow(
        state.own.link,
        state.own.block,
        intercept=state.detector.artifact.scorer.intercept,
        running=body.options.running,
        added=added,
        halts=halts,
        late=late,
    )


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a completion: texts, or lists of token ids. vLLM says what is wrong with anything else."""
    one = isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int))
    return [prompt] if one else list(prompt) if isinstance(prompt, list) else [""]


def _texts(prompts: Sequence[Any], tokenizer: Any) -> list[str]:
    """What prompts say; nothing where they are token ids that only vLLM can read."""
    found = []
    for prompt in prompts:
        ids = isinstance(prompt, list) and all(isinstance(token, int) and token >= 0 for token in prompt)
        text = tokenizer.decode(prompt, skip_special_tokens=True) if ids and tokenizer is not None else ""
        found.append(prompt if isinstance(prompt, str) else text)
    return found
