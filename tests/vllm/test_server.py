"""Our server and a stock one with the same flags, asked by the official client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from groundwire.detector import Detector
from groundwire.types import Example, Request, Sampling
from tests.vllm.conftest import Server, messages, ours, stock

TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
SCORE = 1e-3
ABORTED, FINISHED = 200, 200

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Praia", "Lisbon"]}},
            "required": ["town"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"builder": {"type": "string", "maxLength": 30}, "year": {"type": "integer"}},
    "required": ["builder", "year"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server]) -> Server:
    return serve(ours(*TOOLS, "--enable-prefix-caching"))


@pytest.fixture(scope="module")
def plain(serve: Callable[..., Server], default_folder: str) -> Server:
    return serve(stock(default_folder, *TOOLS, "--served-model-name", "smollm2-135m-instruct-q4_1"))


@pytest.fixture(scope="module")
def reference() -> Detector:
    return Detector.from_pretrained(reading="own")


def verdict(choice: Any) -> dict[str, Any]:
    return choice.model_extra["hallucination"]


def ask(server: Server, number: int = 0, **more: Any) -> Any:
    given = {"model": server.model, "messages": messages(number), "temperature": 0, "max_tokens": 32, **more}
    return server.client.chat.completions.create(**given)


def stream(server: Server, number: int = 0, **more: Any) -> tuple[str, dict[str, Any], list[float], str]:
    """Text, verdict, running scores and finish reason of one streamed choice."""
    text, running, last, reason = "", [], {}, ""
    for chunk in ask(server, number, stream=True, **more):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            found = (choice.model_extra or {}).get("hallucination")
            if found and found["status"] == "running":
                running.append(found["score"])
            elif found:
                assert choice.finish_reason
                last, reason = found, choice.finish_reason
    return text, last, running, reason


def without_ours(reply: Any) -> dict[str, Any]:
    """A reply less our field and what differs from call to call."""
    found = reply.model_dump()
    for choice in found["choices"]:
        choice.pop("hallucination", None)
        for call in choice.get("message", {}).get("tool_calls") or ():
            call.pop("id")
    return {name: value for name, value in found.items() if name not in ("id", "created")}


def assert_matches(reference: Detector, found: dict[str, Any], number: int, text: str) -> None:
    expected = reference.score(Example("x", messages(number), text))
    assert found["status"] == "checked", found
    assert found["score"] == pytest.approx(expected.score, abs=SCORE)
    assert found["detector"]["same_model"] is True
    assert [(s["start"], s["end"]) for s in found["spans"]] == [(s.start, s.end) for s in expected.spans]


@pytest.mark.parametrize("number", range(5))
def test_the_verdict_is_that_of_the_transformers_engine_streamed_or_not(server, reference, number):
    reply = ask(server, number)
    choice = reply.choices[0]
    assert_matches(reference, verdict(choice), number, choice.message.content)
    text, last, _, reason = stream(server, number)
    assert (text, reason) == (choice.message.content, choice.finish_reason)
    assert last["score"] == pytest.approx(verdict(choice)["score"], abs=SCORE)
    assert last["spans"] == verdict(choice)["spans"]


def test_an_answer_that_ends_by_length_counts_its_last_token_too(server, reference):
    reply = ask(server, 4, max_tokens=9, extra_body={"hallucination": {"tokens": True}})
    choice = reply.choices[0]
    assert choice.finish_reason == "length"
    assert len(verdict(choice)["tokens"]) == 9
    assert_matches(reference, verdict(choice), 4, choice.message.content)
    assert ask(server, 4, max_tokens=1).choices[0].model_extra["hallucination"]["status"] == "checked"


def test_that_takes_a_step_and_no_request(server):
    def finished() -> float:
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:request_success_total"))

    before = finished()
    assert ask(server, 4, max_tokens=9).usage.completion_tokens == 9
    assert stream(server, 4, max_tokens=9)[3] == "length"
    assert finished() == before + 2


@pytest.mark.parametrize("stop", ["lighthouse", "e", " was finished in the year of", "1889"])
def test_an_answer_that_ends_at_a_stop_string(server, reference, stop):
    """The token that the stop string begins in is part of the answer, as where the transformers engine generates."""
    choice = ask(server, 4, stop=[stop], max_tokens=60).choices[0]
    assert stop not in choice.message.content
    *steps, expected = reference.stream(Request("r", messages(4), Sampling(max_tokens=60, stop=(stop,))))
    assert choice.message.content == "".join(step.text for step in steps)
    assert verdict(choice)["status"] == expected.status
    assert verdict(choice)["score"] == pytest.approx(expected.score, abs=SCORE)
    text, last, _, _ = stream(server, 4, stop=[stop], max_tokens=60)
    assert text == choice.message.content
    assert last["score"] == pytest.approx(verdict(choice)["score"], abs=SCORE)


def test_the_score_so_far_comes_on_content_chunks_without_a_call_for_each(server):
    server.rpc("groundwire_stats")
    extra = {"ignore_eos": True, "hallucination": {"running": True}}
    _, last, running, _ = stream(server, 4, max_tokens=40, extra_body=extra)
    assert len(running) >= 30
    assert running[-1] == pytest.approx(last["score"], abs=0.2)
    assert len(set(running)) >= 5  # it moves where a worse window of tokens comes
    assert server.rpc("groundwire_stats")["takes"] <= 2  # at the end; none while it streamed


def test_several_choices(server, reference):
    reply = ask(server, 2, n=4, temperature=1.2, seed=5, max_tokens=24)
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
    for choice in reply.choices:
        assert_matches(reference, verdict(choice), 2, choice.message.content)


def test_text_completions_of_texts_and_of_token_ids(server, reference):
    client, prompt = server.client, "The lighthouse of Praia was finished in 1889. It is 41 metres high.\n\nIn short:"
    text = client.completions.create(model=server.model, prompt=[prompt, "Once"], max_tokens=12, temperature=0)
    expected = reference.score(Example("x", [{"role": "user", "content": prompt}], text.choices[0].text))
    assert [choice.model_extra["hallucination"]["status"] for choice in text.choices] == ["checked"] * 2
    assert verdict(text.choices[0])["score"] != pytest.approx(expected.score, abs=1e-9)  # no chat template here
    ids = httpx.post(f"{server.url}/tokenize", json={"model": server.model, "prompt": prompt}).json()["tokens"]
    again = client.completions.create(model=server.model, prompt=ids, max_tokens=12, temperature=0)
    assert again.choices[0].text == text.choices[0].text
    assert verdict(again.choices[0])["score"] == pytest.approx(verdict(text.choices[0])["score"], abs=SCORE)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("policy", ["annotate", "redact", "block", "regenerate", "hold", "halt"])
def test_policies(server, policy, streamed):
    options = {"policy": policy, "threshold": 0.0, **({"halt_threshold": 0.0} if policy == "halt" else {})}
    extra = {"ignore_eos": True, "hallucination": options}
    if streamed:
        text, found, _, reason = stream(server, 4, max_tokens=30, extra_body=extra)
    else:
        choice = ask(server, 4, max_tokens=30, extra_body=extra).choices[0]
        text, found, reason = choice.message.content, verdict(choice), choice.finish_reason
    assert (found["status"], found["flagged"]) == ("checked", True)
    own = ask(server, 4, max_tokens=30, extra_body={"ignore_eos": True}).choices[0].message.content
    if policy == "block":
        assert (text, reason) == ("This answer was withheld: it is not supported by the passages.", "content_filter")
    elif policy == "halt":
        assert reason == "content_filter"
        assert own.startswith(text)
        assert len(text) < len(own)
    elif policy == "redact" and found["spans"]:
        assert "[unsupported]" in text
    elif policy == "regenerate":
        assert [attempt["kept"] for attempt in found["attempts"]].count(True) == 1
    else:
        assert (text, reason) == (own, "length")


def test_detect_judges_rows_that_exist(server, reference):
    rows = [{"id": i, "messages": messages(i % 3), "response": f"It was built in {1880 + i}."} for i in range(20)]
    found = httpx.post(f"{server.url}/v1/detect", json={"inputs": rows}, timeout=120).json()["results"]
    expected = reference.score_batch([Example(str(r["id"]), r["messages"], r["response"]) for r in rows])
    assert [one["id"] for one in found] == list(range(20))
    for one, detection in zip(found, expected, strict=True):
        assert one["hallucination"]["score"] == pytest.approx(detection.score, abs=SCORE)


def test_replies_are_those_of_stock_vllm_and_the_field(server, plain):
    cases: list[dict[str, Any]] = [
        {},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tools": [WEATHER], "tool_choice": "auto"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "facts", "schema": SCHEMA}}},
        {"logprobs": True, "top_logprobs": 2, "max_tokens": 6},
        {"stop": ["finished"]},
    ]
    for case in cases:
        mine, theirs = ask(server, 0, **case), ask(plain, 0, **case)
        for choice in mine.choices:
            found = verdict(choice)
            calls = bool(choice.message.tool_calls)
            assert (found["status"], found["reason"]) == (
                ("not_checked", "tool_call") if calls else ("checked", None)
            ), case
        assert _numbers(without_ours(mine)) == _numbers(without_ours(theirs)), case
    facts = ask(server, 0, response_format=cases[3]["response_format"]).choices[0].message.content
    assert set(json.loads(facts)) == {"builder", "year"}


def test_streams_are_those_of_stock_vllm_and_the_field(server, plain):
    named = {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    for case in ({}, named, {"stream_options": {"include_usage": True}}):
        mine, theirs = (list(ask(one, 0, stream=True, **case)) for one in (server, plain))
        ends = [c for chunk in mine for c in chunk.choices if c.finish_reason]
        assert [verdict(c)["status"] for c in ends] == ["not_checked" if case is named else "checked"]
        assert _joined(mine) == _joined(theirs)


def test_what_stock_vllm_refuses_is_refused_alike(server, plain):
    cases: list[dict[str, Any]] = [{"temperature": -1}, {"max_tokens": 100_000}, {"model": "nobody"}, {"top_p": "x"}]
    for case in cases:
        statuses = []
        for one in (server, plain):
            with pytest.raises(openai.APIStatusError) as caught:
                ask(one, 0, **case)
            statuses.append(caught.value.status_code)
        assert statuses[0] == statuses[1], case


def test_a_client_cannot_ask_the_worker_itself(server):
    reply = ask(server, 0, extra_body={"vllm_xargs": {"groundwire": "mine"}})
    assert verdict(reply.choices[0])["status"] == "checked"
    assert server.rpc("groundwire_stats")["slots"] == 0


def test_checking_can_be_switched_off(server):
    assert verdict(ask(server, 0, extra_body={"hallucination": {"enabled": False}}).choices[0]) is None


def test_the_rest_of_vllms_api_keeps_working(server):
    reply = server.client.responses.create(model=server.model, input="Say hello.", max_output_tokens=8)
    assert reply.output_text
    metrics = httpx.get(f"{server.url}/metrics").text
    assert "vllm:generation_tokens_total" in metrics
    assert 'groundwire_score_bucket{le="0.05",source="engine"}' in metrics
    assert httpx.get(f"{server.url}/version").json()["version"].startswith("0.32")


def test_sixteen_clients_at_once(server, reference):
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda i: ask(server, i, max_tokens=10 + i), range(16)))
    for i, reply in enumerate(replies):
        assert_matches(reference, verdict(reply.choices[0]), i, reply.choices[0].message.content)


def test_aborted_streams_leave_nothing_behind_and_harm_no_other(server, reference):
    """200 of 400 streams are left by their clients in the middle."""
    finished = asyncio.run(_crowd(server))
    assert len(finished) == FINISHED
    for number, text, found in finished[:: FINISHED // 20]:
        assert_matches(reference, found, number, text)
    assert {found["status"] for _, _, found in finished} == {"checked"}
    for _ in range(20):  # what was dropped goes with the next call
        ask(server, 0, max_tokens=2)
        if server.rpc("groundwire_stats")["slots"] == 0:
            break
    assert server.rpc("groundwire_stats")["slots"] == 0
    reply = ask(server, 1)
    assert_matches(reference, verdict(reply.choices[0]), 1, reply.choices[0].message.content)


async def _crowd(server: Server) -> list[tuple[int, str, dict[str, Any]]]:
    gate, finished, model = asyncio.Semaphore(40), [], server.model

    async def one(client: openai.AsyncOpenAI, i: int) -> None:
        async with gate:
            chunks = await client.chat.completions.create(
                model=model,
                messages=messages(i % 5),  # type: ignore[arg-type]
                temperature=0,
                max_tokens=6 + i % 7,
                stream=True,
                extra_body={"ignore_eos": True, "hallucination": {"running": i % 3 == 0}},
            )
            text, last, seen = "", {}, 0
            async for chunk in chunks:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    seen += bool(choice.delta.content)
                    if choice.finish_reason:
                        last = (choice.model_extra or {})["hallucination"]
                if i % 2 and seen > i % 4:
                    await chunks.close()
                    return
            finished.append((i % 5, text, last))

    async with server.async_client as client:
        await asyncio.gather(*(one(client, i) for i in range(ABORTED + FINISHED)))
    return finished


def _numbers(value: Any) -> Any:
    """The value with log-probabilities to three digits: batches round differently."""
    if isinstance(value, dict):
        return {name: _numbers(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def _joined(chunks: list[Any]) -> dict[str, Any]:
    """All that a stream said, however it was cut."""
    texts: list[str] = []
    arguments: list[str] = []
    reasons = []
    for chunk in chunks:
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            for call in choice.delta.tool_calls or ():
                arguments += [call.function.name or "", call.function.arguments or ""]
            reasons += [choice.finish_reason] if choice.finish_reason else []
    usage = [chunk.usage.model_dump() for chunk in chunks if chunk.usage]
    return {"text": "".join(texts), "arguments": "".join(arguments), "reasons": reasons, "usage": usage}
