"""Answers of a server in this process: scores so far on their way, and choices that it stops where the rules say so.

What is the same with an upstream behind HTTP is in test_gateway.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import APIRouter, Request
from starlette.responses import Response

from groundwire.server.judge import Judge
from groundwire.server.observer import checks_for
from groundwire.server.policies import Rules
from groundwire.server.protocol_gateway import Forwarded, ForwardedChat, ForwardedText
from groundwire.server.relaying import Asked, read_chat, read_text, relayed
from groundwire.server.settings import Settings

PASSAGE = "The bridge opened in 1931 and is 642 metres long."
CHAT = ("/own/chat", {"messages": [{"role": "user", "content": "When did the bridge open?"}]})
TEXT = ("/own/text", {"prompt": "When did the bridge open?"})

Pieces = Sequence[tuple[str, float | None]]
BAD: Pieces = [("The bridge", None), (" opened in", 0.25), (" Tokyo", 0.75), (" and Rome.", 0.875)]
GOOD: Pieces = [("The bridge", None), (" opened in", 0.25), (" 1931", 0.125), (".", 0.125)]


@dataclass
class Heard:
    """What a model's own server hears of its choices while it generates."""

    scores: dict[int, float | None] = field(default_factory=dict)
    halted: set[int] = field(default_factory=set)
    asked: list[Any] = field(default_factory=list)  # bodies of requests


@dataclass(frozen=True)
class OwnJudge(Judge):
    """Judges what `heard` is of."""

    source = "own"
    same_model = True
    heard: Heard

    def running(self, index: int) -> float | None:
        return self.heard.scores.get(index)

    def halted(self, index: int) -> bool:
        return index in self.heard.halted


class Own:
    """A server in this process that says the `script`: of each choice pieces of text with the score so far after each.

    It stops a choice where `rules` demand it, before the piece that does.
    """

    def __init__(self, asked: Asked, script: Sequence[Pieces], rules: Rules | None, heard: Heard) -> None:
        self.chat, self.script = asked.shape.path == "chat/completions", script
        self.rules, self.heard, self.under_way = rules, heard, 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        self.under_way += 1
        yield
        self.under_way -= 1

    async def ask(self, path: str, body: Mapping[str, Any], name: str) -> dict[str, Any]:
        self._begin(body)
        texts = ["".join(text for of, text, _ in self._said() if of == index) for index in range(len(self.script))]
        return self._reply(
            {"index": i, "finish_reason": "stop", **({"message": {"content": text}} if self.chat else {"text": text})}
            for i, text in enumerate(texts)
        )

    @asynccontextmanager
    async def stream(
        self, path: str, body: Mapping[str, Any], name: str
    ) -> AsyncIterator[AsyncGenerator[dict[str, Any]]]:
        self._begin(body)
        yield self._chunks()

    async def _chunks(self) -> AsyncGenerator[dict[str, Any]]:
        for index, text, reason in self._said():
            said = {"delta": {"content": text}} if self.chat else {"text": text}
            yield self._reply([{"index": index, **said, "finish_reason": reason}])
        yield self._reply([])

    def _begin(self, body: Mapping[str, Any]) -> None:
        assert self.under_way == 1
        self.heard.asked.append(body)

    def _said(self) -> Iterator[tuple[int, str, str | None]]:
        """Choice, text and finish reason."""
        for index, pieces in enumerate(self.script):
            for text, score in pieces:
                if self.rules is not None and self.rules.halts(score):
                    self.heard.halted.add(index)
                    break
                self.heard.scores[index] = score
                yield index, text, None
            yield index, "", "stop"

    def _reply(self, choices: Any) -> dict[str, Any]:
        return {"id": "own-1", "model": "m", "choices": list(choices)}


router = APIRouter()


@router.post("/own/chat", response_model=None)
async def chat(body: ForwardedChat, request: Request) -> Response:
    return await respond(body, request, await read_chat(body, request))


@router.post("/own/text", response_model=None)
async def text(body: ForwardedText, request: Request) -> Response:
    return await respond(body, request, await read_text(body, request))


async def respond(body: Forwarded, request: Request, asked: Asked) -> Response:
    state, checks = request.app.state, checks_for(body.options, request)
    state.heard = Heard()
    judge = OwnJudge(state.loop, "own", asked.found, body.choices, state.heard)
    upstream = Own(asked, state.script, checks.rules, state.heard)
    return await relayed(body, request, asked, checks, judge=judge, upstream=upstream, running=body.options.running)


@pytest.fixture
def answering(served: Any) -> Any:
    """`server = answering(script, ..., **settings)`: answers each request with one script a choice."""

    def start(*script: Pieces, **settings: Any) -> Any:
        server = served(settings=Settings(**settings))
        server.app.include_router(router)
        server.app.state.script = script
        return server

    return start


def ask(server: Any, api: tuple[str, Any], **fields: Any) -> Any:
    """The choices of a reply, or of each chunk of one."""
    options = {"passages": [PASSAGE], **fields.pop("options", {})}
    body = {"model": "m", **api[1], **fields, "hallucination": options}
    response = server.client.post(api[0], json=body).raise_for_status()
    if not fields.get("stream"):
        return response.json()["choices"]
    *events, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [choice for event in events for choice in json.loads(event)["choices"]]


def said(choice: Any) -> str:
    part = choice.get("delta", choice.get("message", choice))
    return part.get("content", part.get("text")) or ""


def mirror(choice: Any) -> Any:
    return choice.get("delta", choice).get("provider_specific_fields")


def ends(server: Any, api: tuple[str, Any], *, stream: bool, **fields: Any) -> list[tuple[str, str, str]]:
    """Of each choice in order: text, finish reason, and what was done."""
    choices = ask(server, api, stream=stream, **fields)
    texts: dict[int, str] = {}
    for one in choices:
        texts[one["index"]] = texts.get(one["index"], "") + said(one)
    over = sorted((one for one in choices if one["finish_reason"]), key=lambda one: one["index"])
    assert [one["index"] for one in over] == sorted(texts)
    return [(texts[one["index"]], one["finish_reason"], one["hallucination"]["action"]) for one in over]


@pytest.mark.parametrize("api", [CHAT, TEXT])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_score_so_far_rides_on_content_chunks(answering, api, mirrored):
    *chunks, last = ask(answering(BAD), api, stream=True, options={"running": True, "mirror": mirrored})
    assert [said(one) for one in chunks] == [text for text, _ in BAD]
    scores = [{"status": "running", "score": score} if score is not None else None for _, score in BAD]
    assert [one.get("hallucination") for one in chunks] == scores
    assert [mirror(one) for one in chunks] == [{"hallucination": s} if s and mirrored else None for s in scores]
    assert (last["hallucination"]["status"], last["hallucination"]["flagged"]) == ("checked", True)
    assert mirror(last) == ({"hallucination": last["hallucination"]} if mirrored else None)


@pytest.mark.parametrize("api", [CHAT, TEXT])
def test_it_does_not_where_nobody_asked_or_the_answer_is_held(answering, api):
    server = answering(GOOD)
    for options in ({}, {"running": True, "policy": "hold"}):
        *chunks, last = ask(server, api, stream=True, options=options)
        assert "".join(said(one) for one in chunks) == "The bridge opened in 1931."
        assert not any("hallucination" in one for one in chunks)
        assert last["hallucination"]["status"] == "checked"


def test_a_chunk_that_ends_a_choice_has_its_verdict_and_the_other_s_score(answering, monkeypatch):
    async def chunks(self: Own) -> AsyncGenerator[dict[str, Any]]:
        self.heard.scores = {0: 0.75, 1: 0.25}
        parts = [
            {"index": i, "delta": {"content": text}, "finish_reason": end}
            for i, (text, end) in enumerate([("In Tokyo", "stop"), ("In", None)])
        ]
        yield self._reply(parts)
        yield self._reply([{"index": 1, "delta": {"content": " 1931"}, "finish_reason": "length"}])

    monkeypatch.setattr(Own, "_chunks", chunks)
    found = ask(answering(BAD, GOOD), CHAT, stream=True, n=2, options={"running": True})
    assert [one["hallucination"]["status"] for one in found] == ["checked", "running", "checked"]
    assert [one["finish_reason"] for one in found] == ["stop", None, "length"]


@pytest.mark.parametrize("api", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("on_failure", ["open", "closed"])  # closed: held back, and streamed when all is known
def test_an_answer_that_was_halted_says_so(answering, api, stream, on_failure):
    server = answering(BAD, on_failure=on_failure)
    wanted = ("The bridge opened in", "content_filter", "halt")
    assert ends(server, api, stream=stream, options={"policy": "halt", "halt_threshold": 0.5}) == [wanted]
    wanted = ("The bridge opened in Tokyo and Rome.", "stop", "annotate")
    assert ends(server, api, stream=stream, options={"policy": "halt", "halt_threshold": 0.9}) == [wanted]
    assert ends(server, api, stream=stream, options={"policy": "annotate"}) == [wanted]


@pytest.mark.parametrize("api", [CHAT, TEXT])
@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_is_halted_and_the_other_goes_on(answering, api, stream):
    halting = {"policy": "halt", "halt_threshold": 0.5, "running": True}
    assert ends(answering(BAD, GOOD), api, stream=stream, n=2, options=halting) == [
        ("The bridge opened in", "content_filter", "halt"),
        ("The bridge opened in 1931.", "stop", "annotate"),
    ]


def test_what_was_halted_before_the_stream_broke_off_is_still_halted(answering, monkeypatch):
    async def chunks(self: Own) -> AsyncGenerator[dict[str, Any]]:
        self.heard.halted.add(0)
        yield self._reply([{"index": 0, "text": "The bridge", "finish_reason": None}])

    monkeypatch.setattr(Own, "_chunks", chunks)
    last = ask(answering(BAD), TEXT, stream=True, options={"policy": "halt"})[-1]
    assert (last["finish_reason"], last["hallucination"]["action"]) == ("content_filter", "halt")


def test_the_body_comes_with_passages_and_without_what_is_ours(answering):
    server = answering(GOOD)
    for api, name in ((CHAT, "messages"), (TEXT, "prompt")):
        ask(server, api, stream=True, seed=2**60)
        (body,) = server.app.state.heard.asked
        assert set(body) == {"model", name, "stream", "seed"}
        assert PASSAGE in str(body[name])
        ask(server, api)
        assert set(server.app.state.heard.asked[0]) == {"model", name}


def test_verdicts_are_those_of_the_model_s_own_answers(answering):
    server = answering(BAD)
    (choice,) = ask(server, CHAT)
    assert choice["hallucination"]["detector"]["same_model"] is True
    assert 'groundwire_flagged_total{source="own"} 1.0' in server.client.get("/metrics").text


def test_a_server_that_only_observes_says_so(answering):
    server = answering(BAD, observe_share=1)
    body = {"model": "m", **CHAT[1], "hallucination": {"passages": [PASSAGE]}}
    response = server.client.post(CHAT[0], json=body)
    assert response.headers["x-groundwire-reason"] == "observer_mode"
    assert response.json()["choices"][0]["hallucination"] is None
    assert server.client.post(CHAT[0], json=body | {"hallucination": {"running": True}}).status_code == 400
