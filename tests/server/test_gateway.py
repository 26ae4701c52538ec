"""A gateway before a real second server, and before one that misbehaves, through the official client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from groundwire.server import gateway
from groundwire.server.app import create_app
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings

PASSAGES = [{"id": "b", "text": "The bridge opened in 1931 and is 642 metres long."}]
QUESTION = "When did the bridge open?"
GOOD, BAD = "The bridge opened in 1931.", "The bridge opened in Tokyo in 1931."
ANSWERS = {"Answer again": GOOD, QUESTION: BAD, "bridge long?": "The bridge is 642 metres long."}
KEY = "operator"

# Another Groundwire, in a process of its own, asked by the operator's key only.
SERVE = f"""
import socket, uvicorn
from groundwire.engines.fake import fake_detector
from groundwire.server.app import create_app
from groundwire.server.settings import Settings
listener = socket.create_server(("127.0.0.1", 0))
app = create_app(Settings(api_keys=({hash_key(KEY)!r},)), fake_detector({ANSWERS!r}))
print(listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(serving: Callable[..., AbstractContextManager[Any]], upstream: str) -> Iterator[Any]:
    with serving(settings=Settings(upstream_url=upstream, upstream_key=KEY)) as running:
        yield running


def client_of(server: Any) -> OpenAI:
    return OpenAI(base_url=f"{server.base_url}/v1", api_key="the client's own", max_retries=0, timeout=30)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[OpenAI]:
    with client_of(server) as client:
        yield client


def user(content: str = QUESTION) -> list[Any]:
    return [{"role": "user", "content": content}]


def options(**given: Any) -> dict[str, Any]:
    return {"hallucination": {"passages": PASSAGES, **given}}


def ask(client: OpenAI, messages: Any = None, body: Any = None, **fields: Any) -> Any:
    messages = user() if messages is None else messages
    return client.chat.completions.create(
        model="fake", messages=messages, extra_body=options() if body is None else body, **fields
    )


def verdict(choice: Any) -> Any:
    return choice.model_extra["hallucination"]


def streamed(client: OpenAI, **given: Any) -> tuple[list[Any], str, Any]:
    """The chunks, the text in them and the verdict on the last choice's."""
    chunks = list(ask(client, stream=True, **given))
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    (last,) = [choice for choice in choices if choice.finish_reason]
    return chunks, text, verdict(last)


def choice(content: Any = BAD, **rest: Any) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": content, **rest}, "finish_reason": "stop"}


def reply(*choices: Any, **rest: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12, "details": {"cached": 3}}
    about = {"id": "up-1", "object": "chat.completion", "created": 1, "model": "gpt-x"}
    return {**about, "choices": list(choices or [choice()]), "usage": usage, **rest}


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **rest: Any) -> dict[str, Any]:
    part = {"index": index, "delta": delta or {}, "finish_reason": finish, **rest}
    return {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x", "choices": [part]}


DONE = b"data: [DONE]\n\n"
STREAM = [chunk({"role": "assistant", "content": ""}), chunk({"content": "The bridge opened "}),
          chunk({"content": "in Tokyo."}), chunk(finish="stop"), DONE]  # fmt: skip


@pytest.fixture
def before(served: Callable[..., Any], scripted: Any) -> Iterator[Callable[..., tuple[Any, OpenAI]]]:
    """`server, client = before(**settings)`: a gateway before the scripted upstream."""
    clients = []

    def start(**given: Any) -> tuple[Any, OpenAI]:
        server = served(settings=Settings(upstream_url=scripted.url, **{"upstream_key": KEY, **given}))
        clients.append(client_of(server))
        return server, clients[-1]

    yield start
    for client in clients:
        client.close()


# -- a real second server


@pytest.mark.parametrize("question", [QUESTION, "Is the bridge long?", "Say Paris and Rome in the passages"])
@pytest.mark.parametrize("stream", [False, True])
def test_verdicts_equal_those_of_detect(server, client, question, stream):
    body = options(tokens=True, top_terms=9)
    if stream:
        _, text, found = streamed(client, messages=user(question), body=body)
    else:
        answered = ask(client, user(question), body).choices[0]
        text, found = answered.message.content, verdict(answered)
    row = {"context": PASSAGES, "question": question, "response": text}
    response = server.client.post("/v1/detect", json=row | {"hallucination": {"tokens": True, "top_terms": 9}})
    wanted = response.json()["hallucination"]
    assert wanted["detector"].pop("same_model") is True
    assert found["detector"].pop("same_model") is False
    assert found == wanted
    assert found["status"] == "checked"


def test_text_completions_too(server, client):
    prompt = f"{PASSAGES[0]['text']} {QUESTION}"
    wanted = server.client.post("/v1/detect", json={"prompt": prompt, "response": BAD}).json()["hallucination"]
    whole = client.completions.create(model="fake", prompt=[prompt, "Hello"], n=2, max_tokens=50)
    found = verdict(whole.choices[0])
    assert whole.choices[0].text == BAD
    assert {**found, "detector": None} == {**wanted, "detector": None}
    assert [c.index for c in whole.choices] == [0, 1, 2, 3]
    assert whole.choices[3].text == "Hello"
    assert verdict(whole.choices[3])["flagged"] is False
    ends = [c for part in client.completions.create(model="fake", prompt=prompt, stream=True) for c in part.choices]
    assert "".join(c.text for c in ends) == BAD
    assert verdict(ends[-1]) == found
    assert client.completions.create(model="fake", prompt=prompt, extra_body=options()).choices[0].text == BAD


@pytest.mark.parametrize("policy", ["annotate", "redact", "block", "regenerate", "hold"])
@pytest.mark.parametrize("question", [QUESTION, "Is the bridge long?"])
def test_a_stream_says_the_same_as_a_whole_answer(client, policy, question):
    body = options(policy=policy)
    whole = ask(client, user(question), body).choices[0]
    chunks, text, found = streamed(client, messages=user(question), body=body)
    assert (text, found) == (whole.message.content, verdict(whole))
    ends = [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert ends == [whole.finish_reason]
    assert found["action"] == (policy if question == QUESTION or policy == "hold" else "annotate")


def test_policies_act(client):
    redacted = ask(client, body=options(policy="redact")).choices[0]
    assert redacted.message.content == "The bridge opened in [unsupported] in 1931."
    assert redacted.message.content[slice(*verdict(redacted)["spans"][0]["redacted"].values())] == "[unsupported]"
    blocked = ask(client, body=options(policy="block")).choices[0]
    assert (blocked.message.content, blocked.finish_reason) == (Settings().block_message, "content_filter")
    again = ask(client, body=options(policy="regenerate"), n=2)
    plain = ask(client, n=2)
    for one in again.choices:
        assert one.message.content == GOOD
        assert [(a["text"], a["kept"]) for a in verdict(one)["attempts"]] == [(BAD, False), (GOOD, True)]
    assert again.usage.completion_tokens == plain.usage.completion_tokens + 2 * 6
    assert again.usage.total_tokens == again.usage.prompt_tokens + again.usage.completion_tokens


@pytest.mark.parametrize("policy", ["annotate", "hold"])
def test_usage_and_done_follow_the_verdict(server, client, policy):
    body = options(policy=policy)
    chunks, _, _ = streamed(client, body=body, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert chunks[-2].choices[0].finish_reason == "stop"
    chunks, _, _ = streamed(client, body=body)
    assert chunks[-1].choices[0].finish_reason == "stop"
    sent = {"model": "fake", "messages": user(), "stream": True, **body}
    response = server.client.post("/v1/chat/completions", json=sent)
    assert response.text.endswith("data: [DONE]\n\n")
    assert response.headers["content-type"].startswith("text/event-stream")


def test_several_choices_have_each_their_own(client):
    chunks = list(ask(client, n=3, stream=True))
    ends = [c for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert sorted(c.index for c in ends) == [0, 1, 2]
    assert all(verdict(c)["flagged"] for c in ends)


def test_the_async_client_and_many_at_once(server):
    async def run() -> None:
        async with AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:
            asked = client.chat.completions.create
            answers = await asyncio.gather(
                *(asked(model="fake", messages=user(f"Say number{i} now"), extra_body=options(policy="hold"))
                  for i in range(20))
            )  # fmt: skip
            assert all(verdict(a.choices[0])["status"] == "checked" for a in answers)

    asyncio.run(run())


def test_small_talk_is_not_checked_and_checks_can_be_off(client):
    found = verdict(ask(client, user("Hello there!"), {}).choices[0])
    assert (found["status"], found["reason"], found["score"]) == ("not_checked", "no_passages", None)
    assert found["detector"]["same_model"] is False
    off = {"hallucination": {"enabled": False}}
    assert verdict(ask(client, body=off).choices[0]) is None
    assert streamed(client, body=off)[1:] == (BAD, None)


def test_headers_and_the_mirror(server, client):
    response = server.client.post("/v1/chat/completions", json={"model": "fake", "messages": user(), **options()})
    assert (response.headers["x-groundwire-status"], response.headers["x-groundwire-flagged"]) == ("checked", "true")
    body = options(mirror=True)
    message = ask(client, body=body).choices[0].message
    assert message.model_extra["provider_specific_fields"]["hallucination"]["flagged"] is True
    last = streamed(client, body=body)[0][-1].choices[0]
    assert last.delta.model_extra["provider_specific_fields"]["hallucination"] == verdict(last)


def test_the_upstream_s_models(server, client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").id == "fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    for path in ("a/..%2f..%2fmetrics", "..%2fdetect", "a%0ab", "a//b"):
        assert server.client.get(f"/v1/models/{path}").status_code == 404


def test_errors_of_the_upstream_are_the_client_s(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-9", messages=user())
    assert missing.value.code == "model_not_found"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, tools=[{"type": "function", "function": {"name": "f"}}], stream=stream)
        assert (refused.value.param, refused.value.code) == ("tools", "unsupported_value")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"body": options(policy="halt")}, "hallucination.policy"),
        ({"body": options(running=True)}, "hallucination.running"),
        ({"body": options(target="none")}, "hallucination.target"),
        ({"n": 9}, "n"),
    ],
)
def test_what_a_gateway_cannot_do_is_refused_with_the_reason(client, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **fields)
    assert refused.value.param == param
    assert len(refused.value.body["message"]) > 30


def test_text_completions_are_not_asked_again(client):
    with pytest.raises(openai.BadRequestError, match="conversation"):
        client.completions.create(model="fake", prompt="a", extra_body=options(policy="regenerate"))


def test_half_a_surrogate_pair_is_refused(server):
    body = b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}'
    response = server.client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.json()["error"]["code"] == "invalid_json"


def test_the_description_of_the_api_can_be_had(server):
    paths = server.app.openapi()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/detect"} <= set(paths)


# -- one that says what it is told to


def test_everything_else_is_passed_on_as_it_came(before, scripted):
    server, _ = before()
    scripted.says(reply(choice(tool_extra=1), logprobs_extra=float("-inf"), service_tier="x"))
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    sent = {
        "model": "gpt-x", "messages": user(f"{PASSAGES[0]['text']} {QUESTION}"), "tools": tools, "seed": 2**60,
        "response_format": {"type": "json_object"}, "temperature": 0.25, "unheard_of": [1, None, "é"], "stop": None,
    }  # fmt: skip
    headers = {"authorization": "Bearer mine", "x-request-id": "r-7"}
    response = server.client.post("/v1/chat/completions", json={**sent, **options()}, headers=headers)
    assert scripted.bodies == [sent]
    assert scripted.headers[0]["authorization"] == f"Bearer {KEY}"
    assert scripted.headers[0]["x-request-id"] == "r-7"
    assert "mine" not in str(scripted.headers)
    found = json.loads(response.content)
    hallucination = found["choices"][0].pop("hallucination")
    assert hallucination["flagged"] is True
    assert found == scripted_reply(scripted)


def test_answers_of_ours_that_are_sent_back_carry_nothing_of_ours(before, scripted):
    _, client = before()
    scripted.says(reply())
    message = ask(client, body=options(mirror=True)).choices[0].message.model_dump(exclude_none=True)
    assert "hallucination" in message["provider_specific_fields"]
    ask(client, [*user(), message, *user("Is the bridge long?")])
    assert scripted.bodies[1]["messages"][1] == {"role": "assistant", "content": BAD}


def scripted_reply(scripted: Any) -> Any:
    return json.loads(scripted.replies[0][0].partition(b"\r\n\r\n")[2])


def test_passages_that_the_messages_lack_are_shown_to_the_upstream(before, scripted):
    _, client = before()
    scripted.says(reply())
    ask(client)
    assert PASSAGES[0]["text"] in scripted.bodies[0]["messages"][0]["content"]
    assert "hallucination" not in scripted.bodies[0]


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize("policy", ["annotate", "block"])
def test_a_tool_call_is_not_checked(before, scripted, policy):
    _, client = before()
    scripted.says(reply({**choice(None, tool_calls=[CALL]), "finish_reason": "tool_calls"}))
    whole = ask(client, body=options(policy=policy)).choices[0]
    assert whole.message.tool_calls[0].function.name == "look"
    assert (verdict(whole)["reason"], whole.finish_reason) == ("tool_call", "tool_calls")
    if policy == "annotate":
        scripted.streams(chunk({"role": "assistant", "content": None}),
                         chunk({"tool_calls": [{"index": 0, **CALL}]}), chunk(finish="tool_calls"), DONE)  # fmt: skip
    chunks, _, found = streamed(client, body=options(policy=policy))
    calls = [c for part in chunks for c in part.choices[0].delta.tool_calls or ()]
    assert [call.function.name for call in calls] == ["look"]
    assert found["reason"] == "tool_call"


def test_what_is_withheld_is_nowhere(before, scripted):
    server, _ = before()
    one = {
        **choice("The bridge opened in Tokyo.", reasoning_content="Tokyo"),
        "logprobs": {"content": [{"token": "Tokyo"}]},
    }
    scripted.says(reply(one))
    for policy in ("block", "redact"):
        for stream in (False, True):
            body = {"model": "m", "messages": user(), "stream": stream, **options(policy=policy)}
            response = server.client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200
            parts = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
            for part in parts or [response.json()]:
                for answered in part["choices"]:
                    found = answered.pop("hallucination", None)
                    assert found is None or found["action"] == policy
                    assert "Tokyo" not in json.dumps(answered)


def test_regenerating_sends_the_conversation_with_what_was_wrong(before, scripted):
    server, client = before()
    scripted.says(reply(choice(BAD)))
    first = scripted.replies[0]
    scripted.says(reply(choice(GOOD)))
    scripted.replies = [first, scripted.replies[0]]
    tools = [{"type": "function", "function": {"name": "f"}}]
    answered = ask(client, body=options(policy="regenerate"), n=1, tools=tools, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in answered if c.choices)
    assert text == GOOD
    asked, again = scripted.bodies
    assert again["messages"][: len(asked["messages"])] == asked["messages"]
    assert again["messages"][-2] == {"role": "assistant", "content": BAD}
    assert '"Tokyo"' in again["messages"][-1]["content"]
    assert again["tools"] == tools
    assert "n" not in again
    assert "stream" not in again
    assert 'groundwire_tokens_total{kind="completion"} 14.0' in server.client.get("/metrics").text


@pytest.mark.parametrize("status", [200, 500])
def test_a_second_attempt_that_fails_leaves_the_first(before, scripted, status):
    _, client = before()
    scripted.says(reply())
    first = scripted.replies[0]
    scripted.says({"error": {"message": "Overloaded."}} if status == 500 else {**reply(), "choices": []}, status)
    scripted.replies = [first, scripted.replies[0]]
    answered = ask(client, body=options(policy="regenerate")).choices[0]
    assert answered.message.content == BAD
    attempts = verdict(answered)["attempts"]
    assert [(a["kept"], a["status"], a["reason"]) for a in attempts] == [
        (True, "checked", None), (False, "not_checked", "capture_failed"),
    ]  # fmt: skip


def test_chunks_are_passed_on_as_they_come(before, scripted):
    _, client = before()
    scripted.streams(*STREAM[:2], 1.5, *STREAM[2:])
    start, seen = time.monotonic(), []
    for part in ask(client, stream=True):
        seen.append((time.monotonic() - start, part.choices[0].delta.content))
    assert [text for _, text in seen] == ["", "The bridge opened ", "in Tokyo.", None]
    assert seen[1][0] < 1.4 < seen[2][0]


def test_a_verdict_does_not_wait_for_the_end_of_the_stream(before, scripted):
    _, client = before()
    scripted.streams(*STREAM[:-1], 3.0, DONE)
    start = time.monotonic()
    for part in ask(client, stream=True):
        if part.choices[0].finish_reason:
            assert verdict(part.choices[0])["flagged"] is True
            assert time.monotonic() - start < 2.8


def test_odd_streams_that_are_whole(before, scripted):
    server, client = before()
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
    one = chunk({"content": "in Tokyo."}, "stop")
    halves = [chunk({"content": "\ud83d"}), chunk({"content": "\ude00"})]
    scripted.streams(
        b": here\n\n", {"choices": [], "prompt_filter_results": []}, *halves, one, usage, {"choices": [], "odd": 1}
    )
    chunks, _, found = streamed(client)
    assert found["spans"][0]["text"].startswith("Tokyo")
    assert [bool(part.usage) for part in chunks][-2:] == [True, False]
    assert 'groundwire_tokens_total{kind="completion"} 4.0' in server.client.get("/metrics").text
    scripted.streams(*STREAM[:3], DONE)  # without any finish_reason
    last = list(ask(client, stream=True))[-1]
    assert (last.choices[0].finish_reason, verdict(last.choices[0])["flagged"]) == (None, True)


@pytest.mark.parametrize(
    ("events", "whole", "code"),
    [
        (STREAM[:2], True, "upstream_truncated"),
        (STREAM[:2], False, "upstream_disconnected"),
        ([*STREAM[:2], b"data: {\n\n"], True, "upstream_malformed"),
        ([*STREAM[:2], {"choices": [{"index": 7}]}], True, "upstream_malformed"),
        ([*STREAM[:2], {"error": {"message": "Overloaded.", "code": "over"}}], True, "over"),
        ([*STREAM[:2], None], True, "upstream_timeout"),
    ],
)
def test_a_stream_that_breaks_off_says_so_and_was_not_checked(before, scripted, events, whole, code):
    server, client = before(upstream_timeout=0.5)
    scripted.streams(*events, whole=whole)
    parts, seen = ask(client, stream=True), []
    with pytest.raises(openai.APIError) as broken:
        seen.extend(part.choices[0] for part in parts)
    assert broken.value.code == code
    assert "".join(c.delta.content or "" for c in seen) == "The bridge opened "
    assert (verdict(seen[-1])["status"], verdict(seen[-1])["reason"]) == ("not_checked", "capture_failed")
    assert seen[-1].finish_reason is None
    assert 'reason="capture_failed",source="gateway"} 1.0' in server.client.get("/metrics").text


def test_a_stream_of_nothing_is_an_error(before, scripted):
    _, client = before()
    scripted.streams()
    with pytest.raises(openai.APIError, match="broke off"):
        list(ask(client, stream=True))


def test_upstreams_that_fail(before, scripted):
    _, client = before(upstream_timeout=0.3)
    for stream in (False, True):
        scripted.says({"error": {"message": "Slow down."}}, 429, retry_after="7")
        with pytest.raises(openai.RateLimitError) as limited:
            ask(client, stream=stream)
        assert limited.value.response.headers["retry-after"] == "7"
        scripted.replies = [[None]]
        with pytest.raises(openai.InternalServerError) as late:
            ask(client, stream=stream)
        assert (late.value.status_code, late.value.code) == (504, "upstream_timeout")
        scripted.says({"choices": 3})
        with pytest.raises(openai.InternalServerError) as odd:
            ask(client, stream=stream)
        assert (odd.value.status_code, odd.value.code) == (502, "upstream_malformed")


def test_an_upstream_that_is_not_there(served):
    server = served(settings=Settings(upstream_url="http://127.0.0.1:9/v1"))
    for path, body in (
        ("chat/completions", {"model": "m", "messages": user()}),
        ("completions", {"model": "m", "prompt": "a"}),
    ):
        response = server.client.post(f"/v1/{path}", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_unreachable")
    assert server.client.get("/v1/models").status_code == 502


@pytest.mark.parametrize("given", [{"stream": True}, {}, {"stream": True, "hallucination": {"policy": "hold"}}])
def test_a_client_that_vanishes_ends_the_upstream_s_work(before, scripted, given):
    server, _ = before()
    scripted.streams(*STREAM[:2], None)
    if len(given) != 1:
        scripted.replies = [[None]]
    data = json.dumps({"model": "m", "messages": user(), **given}).encode()
    with server.connect() as socket:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        socket.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
        received = b""
        while len(given) == 1 and b"opened" not in received:
            received += socket.recv(4096)
        while not scripted.paths:
            time.sleep(0.01)
    assert scripted.left.acquire(timeout=30)
    deadline = time.monotonic() + 30
    while server.app.state.upstream.under_way:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_clients_that_vanish_leave_nothing(before, scripted):
    server, client = before(max_batch=2, max_queue=2)
    scripted.streams(*STREAM[:2], None)
    hanging = scripted.replies[0]
    scripted.streams(*STREAM)
    scripted.replies = [hanging] * 60 + scripted.replies
    body = {"model": "m", "messages": user(), "stream": True}

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.base_url, timeout=30) as vanishing:

            async def vanish(i: int) -> None:
                while True:  # at most four fit at once
                    async with vanishing.stream("POST", "/v1/chat/completions", json=body) as response:
                        if response.status_code == 429:
                            await asyncio.sleep(0.01)
                            continue
                        assert response.status_code == 200
                        if i % 2:
                            await anext(response.aiter_bytes())
                        return

            await asyncio.gather(*(vanish(i) for i in range(60)))

    asyncio.run(run())
    deadline = time.monotonic() + 30
    while server.app.state.upstream.under_way:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [streamed(client)[1] for _ in range(6)] == ["The bridge opened in Tokyo."] * 6


def test_a_check_that_fails_withholds_the_answer_where_the_operator_says_so(served, scripted, monkeypatch):
    detector = fake_detector()

    def broken(*_: Any) -> Any:
        raise RuntimeError("a secret of the model")

    monkeypatch.setattr(detector, "score_batch", broken)
    for failing in ("open", "closed"):
        server = served(settings=Settings(upstream_url=scripted.url, on_failure=failing), detector=detector)
        with client_of(server) as client:
            scripted.says(reply())
            whole = ask(client).choices[0]
            if failing == "open":
                scripted.streams(*STREAM)
            _, text, found = streamed(client)
        assert (verdict(whole)["reason"], found["reason"]) == ("capture_failed", "capture_failed")
        withheld = Settings().block_message
        assert (withheld == whole.message.content, withheld == text) == (failing == "closed", failing == "closed")


def test_a_reader_slower_than_the_upstream_refuses_requests(served, scripted, monkeypatch):
    detector, free = fake_detector(), threading.Event()
    score = detector.score_batch

    def slow(examples: Any) -> Any:
        free.wait(30)
        return score(examples)

    monkeypatch.setattr(detector, "score_batch", slow)
    server = served(settings=Settings(upstream_url=scripted.url, max_batch=1, max_queue=2), detector=detector)
    scripted.says(reply())

    def posted() -> int:
        body = {"model": "m", "messages": user(QUESTION), **options()}
        return httpx.post(f"{server.base_url}/v1/chat/completions", json=body, timeout=60).status_code

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(posted) for _ in range(3)]
        while len(scripted.paths) < 3:
            time.sleep(0.01)
        time.sleep(0.1)  # the upstream has answered all of them
        late = [pool.submit(posted) for _ in range(3)]
        assert [one.result() for one in late] == [429] * 3
        free.set()
        assert [one.result() for one in waiting] == [200] * 3


def test_answers_that_do_not_fit_the_reader_are_not_checked(before, scripted):
    _, client = before()
    scripted.says(reply(choice("word " * 3000)))
    found = verdict(ask(client).choices[0])
    assert (found["status"], found["reason"]) == ("not_checked", "prompt_too_long")


def test_the_log_and_the_metrics_know_the_answers(before, scripted, tmp_path):
    log = tmp_path / "verdicts.jsonl"
    server, client = before(verdict_log=log, verdict_log_text=True)
    scripted.says(reply())
    ask(client)
    scripted.streams(*STREAM)
    streamed(client)
    assert 'groundwire_flagged_total{source="gateway"} 2.0' in server.client.get("/metrics").text
    deadline = time.monotonic() + 30
    while log.read_text().count("\n") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["source"], line["model"]) for line in lines] == [("gateway", "gpt-x")] * 2
    assert [line["response"] for line in lines] == [BAD, "The bridge opened in Tokyo."]
    assert [line["id"] for line in lines] == ["up-1-0"] * 2  # as the client saw them


def test_settings_that_no_gateway_can_have():
    gateway.check_gateway(Settings(upstream_url="https://api.example.com/v1"))
    for given in ({"upstream_url": "nowhere"}, {"upstream_url": "https://a/v1", "policy": "halt"}):
        with pytest.raises(InputError):
            create_app(Settings(**given), fake_detector())
