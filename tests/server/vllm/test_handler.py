"""vLLM's handlers as what answers: what they are given, what they say, and how they refuse and fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request

from groundwire.server.errors import ApiError
from groundwire.server.relay import Answerer, event
from groundwire.server.vllm.follow import Follow, FollowingClient
from groundwire.server.vllm.handler import Handler
from tests.server.vllm.conftest import (
    GOOD,
    ChatCompletionRequest,
    CompletionRequest,
    ErrorResponse,
    Serving,
    ValidationError,
)

CHAT, TEXT = "chat/completions", "completions"
BODY = {"messages": [{"role": "user", "content": "When?"}]}
REQUEST = Request({"type": "http", "headers": []})


class Says:
    """A handler that says what it is told to, or raises it. asked: the requests, as vLLM reads them."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.asked: list[Any] = []

    async def create_chat_completion(self, request: Any, raw_request: Any) -> Any:
        assert raw_request is REQUEST
        self.asked.append(request)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    create_completion = create_chat_completion


def handler(found: Any) -> tuple[Handler, Says]:
    says = Says(found)
    state = SimpleNamespace(openai_serving_chat=says, openai_serving_completion=says)
    return Handler(state, REQUEST, None), says


def ask(found: Any, path: str = CHAT, body: Any = BODY) -> Any:
    return asyncio.run(handler(found)[0].ask(path, body, "r"))


def refused(found: Any, **given: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        ask(found, **given)
    return raised.value


def streamed(*events: str) -> list[Any]:
    """The chunks of a stream of these events."""

    async def main() -> list[Any]:
        async with handler(sent(*events))[0].stream(CHAT, BODY, "r") as chunks:
            return [chunk async for chunk in chunks]

    return asyncio.run(main())


async def sent(*events: str) -> AsyncGenerator[str]:
    for one in events:
        yield one


# -- replies


def test_it_answers():
    assert isinstance(handler(None)[0], Answerer)
    assert ask({"choices": []}) == {"choices": []}
    assert ask(SimpleNamespace(model_dump=lambda: {"id": "a"})) == {"id": "a"}


@pytest.mark.parametrize(
    ("path", "body", "kind"), [(CHAT, BODY, ChatCompletionRequest), (TEXT, {"prompt": [5, 6]}, CompletionRequest)]
)
def test_vllm_reads_the_request_itself(path, body, kind):
    one, says = handler({})
    asyncio.run(one.ask(path, {**body, "top_k": 3}, "r"))
    (asked,) = says.asked
    assert isinstance(asked, kind)
    assert asked.model_extra == {"top_k": 3}


def test_the_events_of_a_stream_are_its_chunks():
    noise = [": ping\n\n", "\n\n"]
    found = streamed('data: {"a": 1}\n\n', *noise, 'data:{"b": "é"}\n\n', "data: [DONE]\n\n", 'data: {"c": 1}\n\n')
    assert found == [{"a": 1}, {"b": "é"}]
    assert streamed('data: {"a": 1}\n\n') == [{"a": 1}]
    assert [event(chunk) for chunk in found] == [b'data: {"a": 1}\n\n', 'data:{"b": "é"}\n\n'.encode()]  # as they came


def test_leaving_a_stream_ends_it():
    ended = []

    async def events() -> AsyncGenerator[str]:
        try:
            while True:
                yield 'data: {"a": 1}\n\n'
        finally:
            ended.append(True)

    async def main() -> None:
        async with handler(events())[0].stream(CHAT, BODY, "r") as chunks:
            assert await anext(chunks) == {"a": 1}
        assert ended == [True]

    asyncio.run(main())


# -- refusals


def test_an_error_response_is_an_api_error():
    said = SimpleNamespace(message="no such model", type="NotFoundError", code=404, param="model")
    error = refused(ErrorResponse(said))
    assert (error.status_code, error.message) == (404, "no such model")
    assert (error.kind, error.param) == ("NotFoundError", "model")
    assert refused(ErrorResponse(SimpleNamespace(**{**vars(said), "code": 200}))).status_code == 500


@pytest.mark.parametrize(
    ("raised", "wanted"),
    [
        (ValidationError("too long", parameter="input_text"), (400, "too long", "BadRequestError", "input_text")),
        (ValueError("n is 0"), (400, "n is 0", "BadRequestError", None)),
        (RuntimeError("dead"), (500, "dead", "InternalServerError", None)),
        (ApiError(409, "ours", param="p"), (409, "ours", "invalid_request_error", "p")),
    ],
)
def test_what_a_handler_raises_is_answered_as_vllm_would(raised, wanted):
    error = refused(raised)
    assert (error.status_code, error.message, error.kind, error.param) == wanted


@pytest.mark.parametrize(
    ("body", "param"), [({}, "messages"), ({"messages": [], "n": "many"}, "n"), ({"messages": "all"}, "messages")]
)
def test_a_body_that_vllm_cannot_read_is_named(body, param):
    error = refused({}, body=body)
    assert (error.status_code, error.param) == (400, param)


def test_a_model_without_this_api():
    one = Handler(SimpleNamespace(openai_serving_chat=None), REQUEST, None)
    for path in (CHAT, TEXT):
        with pytest.raises(ApiError) as raised:
            asyncio.run(one.ask(path, BODY, "r"))
        assert raised.value.status_code == 501


@pytest.mark.parametrize(("code", "status"), [(503, 503), ("dead", 500), (None, 500)])
def test_an_error_in_a_stream_ends_it(code, status):
    error = {"error": {"message": "m", "type": "t", "code": code}}
    with pytest.raises(ApiError) as raised:
        streamed('data: {"a": 1}\n\n', f"data: {json.dumps(error)}\n\n", "data: [DONE]\n\n")
    assert (raised.value.status_code, raised.value.message, raised.value.kind) == (status, "m", "t")


# -- followed


@pytest.fixture
def followed(engine, connect) -> Callable[..., None]:
    """`followed(work)`: runs `work` with a handler of the scripted engine and the `Follow` of its request."""

    def run(work: Callable[..., Any]) -> None:
        async def main() -> None:
            own = await connect()
            serving = Serving(FollowingClient(engine), engine.tokenizer)
            state = SimpleNamespace(openai_serving_chat=serving, openai_serving_completion=serving)
            follow = Follow(own.link, own.block)
            await work(Handler(state, REQUEST, follow), follow)

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


@pytest.mark.parametrize(("path", "body"), [(CHAT, BODY), (TEXT, {"prompt": "When?"})])
def test_what_is_asked_first_is_followed_until_the_request_is_over(followed, path, body):
    async def work(one: Handler, follow: Follow) -> None:
        with one.admitted():
            await one.ask(path, body, "r")
            assert follow.choice(0).text == GOOD
        assert follow.choice(0) is None

    followed(work)


def test_a_stream_is_followed(followed):
    async def work(one: Handler, follow: Follow) -> None:
        with one.admitted():
            async with one.stream(CHAT, {**BODY, "stream": True}, "r") as chunks:
                texts = [chunk["choices"][0]["delta"]["content"] async for chunk in chunks]
            assert "".join(texts) == follow.choice(0).text == GOOD

    followed(work)


def test_a_second_attempt_is_not_followed(followed):
    async def work(one: Handler, follow: Follow) -> None:
        await one.ask(CHAT, BODY, "r")
        assert follow.prompts == 1
        await one.ask(CHAT, BODY, "r")
        assert follow.prompts == 0

    followed(work)


def test_beams_are_not_followed(followed):
    async def work(one: Handler, follow: Follow) -> None:
        await one.ask(CHAT, {**BODY, "use_beam_search": True}, "r")
        assert follow.prompts == 0

    followed(work)
