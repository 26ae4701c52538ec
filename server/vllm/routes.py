"""The generating API where vLLM writes the answers in this very process: its own handlers behind our verdicts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.answering import added_by
from groundwire.server.completions import prompts_passages
from groundwire.server.errors import ApiError
from groundwire.server.gateway import check_rules
from groundwire.server.judge import Judge
from groundwire.server.observer import checks_for
from groundwire.server.permission import check_choices, given_passages
from groundwire.server.policies import Rules
from groundwire.server.protocol_gateway import Forwarded, ForwardedChat
from groundwire.server.relaying import Asked, read_chat, relayed, sent_body
from groundwire.server.shapes import ChatShape, TextShape
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
    _check_echo(body)
    return await _respond(body, request, await read_chat(body, request))


@router.post("/v1/completions", response_model=None)
async def completions(body: ServedText, request: Request) -> Response:
    """Complete prompts; every choice says whether it stays with its prompt, or with the passages."""
    return await _respond(body, request, await _read_text(body, request))


async def _read_text(body: ServedText, request: Request) -> Asked:
    """Prompts to complete, texts or token ids. Raises ApiError on what cannot be checked."""
    state, given = request.app.state, await sent_body(request)
    _check_echo(body)
    if given.get("prompt_embeds") is not None and body.options.enabled:
        why = "what they say cannot be read; leave them out, or switch the check off (hallucination.enabled)"
        raise ApiError(400, f"prompt_embeds: {why}.", param="prompt_embeds", code="unsupported_value")
    prompts = _prompts(body.prompt)
    check_choices(len(prompts), body.choices, state.settings)
    texts = await asyncio.to_thread(_texts, prompts, state.vllm.engine_client.renderer.tokenizer)
    found = await asyncio.to_thread(prompts_passages, texts, given_passages(body.options, state.settings))
    wanted = [one.messages[-1]["content"] for one in found]
    if wanted != texts:
        if any(not isinstance(prompt, str) for prompt in prompts):
            why = "they do not stand in the prompt, and nothing is put into one of token ids: write them into it"
            raise ApiError(400, f"hallucination.passages: {why}.", param="hallucination.passages", code="invalid_value")
        given["prompt"] = wanted
    return Asked(TextShape(), given, found)


async def _respond(body: Forwarded, request: Request, asked: Asked) -> Response:
    state, checks, name = request.app.state, checks_for(body.options, request), f"vllm-{uuid.uuid4().hex}"
    rules, text = checks.rules, isinstance(asked.shape, TextShape)
    outer = Request({**request.scope, "app": state.vllm_app}, request.receive)
    if rules is not None and (state.own is None or (text and rules.policy == "regenerate")):
        check_rules(rules, body, asked.shape)
    if state.own is None:
        judge = Judge(state.loop, name, asked.found, body.choices)
        return await relayed(body, request, asked, checks, judge=judge, upstream=Handler(state.vllm, outer, None))
    follow = _follow(body, state, asked, rules)
    client, adapters = state.vllm.engine_client, state.vllm.openai_serving_models.lora_requests
    foreign = body.model in adapters
    own = OwnJudge(state.loop, name, asked.found, body.choices, follow, state.own.link, client, foreign)
    judged = rules is not None and not foreign and any(one.reason is None for one in asked.found)
    handler = Handler(state.vllm, outer, follow if judged else None)
    return await relayed(body, request, asked, checks, judge=own, upstream=handler, running=body.options.running)


def _follow(body: Forwarded, state: Any, asked: Asked, rules: Rules | None) -> Follow:
    """How the answers are followed. Raises ApiError."""
    halts = rules.halts if rules is not None and rules.policy == "halt" else None
    running = body.options.running and rules is not None
    late = state.reasons and isinstance(asked.shape, ChatShape)
    if late and (halts or running):
        name = "policy" if halts else "running"
        why = "there is no score so far where reasoning is taken out of the answer"
        raise ApiError(400, f"hallucination.{name}: {why}.", param=f"hallucination.{name}", code="unsupported_value")
    added: list[Added] = []
    for one in asked.found if halts or running else ():
        source = Source.of(Example("", one.messages, "", passages=one.passages))
        added += [added_by(state.detector.artifact.grounding, source) for _ in range(body.choices)]
    return Follow(
        state.own.link,
        state.own.block,
        intercept=state.detector.artifact.scorer.intercept,
        running=running,
        added=added,
        halts=halts,
        late=late,
        linger=not late and not asked.given.get("tools"),  # parsers that finish with the last token's chunk
    )


def _check_echo(body: Forwarded) -> None:
    if (body.model_extra or {}).get("echo"):
        why = "a text that is repeated cannot be told from the answer; leave it out"
        raise ApiError(400, f"echo: {why}.", param="echo", code="unsupported_value")


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a completion: texts, or lists of token ids. vLLM says what is wrong with anything else."""
    one = isinstance(prompt, str) or (isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], int))
    return [prompt] if one else list(prompt) if isinstance(prompt, list) else [""]


def _texts(prompts: Sequence[Any], tokenizer: Any) -> list[str]:
    """What prompts say; nothing where vLLM will say what is wrong with them."""
    return [prompt if isinstance(prompt, str) else _decoded(prompt, tokenizer) for prompt in prompts]


def _decoded(ids: Any, tokenizer: Any) -> str:
    if not isinstance(ids, list) or not all(isinstance(one, int) and 0 <= one < len(tokenizer) for one in ids):
        return ""
    text: str = tokenizer.decode(ids, skip_special_tokens=True)
    return text
