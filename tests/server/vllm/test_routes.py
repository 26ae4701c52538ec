"""The generating API inside vLLM's server, over sockets: verdicts, scores so far, policies, and what is refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.engines.vllm.wire import KEY
from groundwire.server.settings import Settings
from groundwire.server.vllm import plugin
from groundwire.server.vllm.fit import Beside
from groundwire.server.vllm.routes import router
from tests.server.vllm.conftest import BAD, CONTEXT, GOOD, PASSAGE, QUESTION

ASKED = f"{PASSAGE} {QUESTION}"
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": ASKED}]})
TEXT = ("/v1/completions", {"prompt": ASKED})
APIS = pytest.mark.parametrize("api", [CHAT, TEXT], ids=["chat", "text"])
STREAM = pytest.mark.parametrize("stream", [False, True])
CUT = "It was finished in Zion"


def post(server: Any, api: Any, body: Any = None, **fields: Any) -> Any:
    """The response to a request; `fields` are its options, `body` the rest of it."""
    path, asked = api
    options = {"passages": [PASSAGE], **fields} if api[0] == CHAT[0] else fields
    return server.client.post(path, json={**asked, **(body or {}), "hallucination": options})


def chunks(server: Any, api: Any, body: Any = None, **options: Any) -> list[Any]:
    """The choices of a stream's chunks."""
    response = post(server, api, {**(body or {}), "stream": True}, **options)
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    *events, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert end == "[DONE]"
    return [choice for event in events for choice in json.loads(event)["choices"]]


def said(choice: Any) -> str:
    part = choice.get("delta", choice.get("message", choice))
    return part.get("content", part.get("text")) or ""


def answers(server: Any, api: Any, *, stream: bool = False, body: Any = None, **options: Any) -> list[Any]:
    """Text, finish reason and verdict of each choice."""
    if not stream:
        choices = post(server, api, body, **options).raise_for_status().json()["choices"]
        return [(said(one), one["finish_reason"], one["hallucination"]) for one in choices]
    parts = chunks(server, api, body, **options)
    ends = {one["index"]: one for one in parts if one["finish_reason"]}
    texts = {index: "".join(said(one) for one in parts if one["index"] == index) for index in ends}
    return [(texts[i], ends[i]["finish_reason"], ends[i]["hallucination"]) for i in sorted(ends)]


def refused(server: Any, api: Any, body: Any = None, **options: Any) -> tuple[int, str | None]:
    response = post(server, api, body, **options)
    return response.status_code, response.json()["error"]["param"]


def wishes(engine: Any) -> list[Any]:
    return [(params.extra_args or {}).get(KEY) for _, params, _ in engine.requests]


# -- verdicts


def test_the_routes_are_these():
    assert [route.path for route in router.routes] == [CHAT[0], TEXT[0]]


@APIS
@pytest.mark.parametrize("says", [GOOD, BAD])
def test_a_verdict_is_the_same_streamed_or_not_or_asked_for_afterwards(serve, engine, api, says):
    server = serve()
    engine.says(says)
    ((text, reason, found),) = answers(server, api, tokens=True)
    assert (text, reason, found["status"], found["flagged"]) == (says, "stop", "checked", says is BAD)
    assert found["detector"]["same_model"] is True
    assert answers(server, api, stream=True, tokens=True) == [(text, reason, found)]
    assert not any(wish["replay"] for wish in wishes(engine)[-2:])
    row = {"messages": CHAT[1]["messages"], "response": text, "hallucination": {"tokens": True}}
    again = server.client.post("/v1/detect", json=row).json()["hallucination"]
    for span in [*found["spans"], *again["spans"]]:
        del span["evidence"]  # here of the passages that the request names
    assert again == found
    assert engine.followed == 0


@STREAM
def test_several_answers_to_several_prompts(serve, engine, stream):
    server = serve()
    engine.answer = lambda prompt, number: GOOD if ("high" in prompt) == (number == 1) else BAD
    prompts = [ASKED, f"{PASSAGE} How high is it?"]
    found = answers(server, ("/v1/completions", {"prompt": prompts, "n": 2}), stream=stream)
    assert [text for text, _, _ in found] == [GOOD, BAD, BAD, GOOD]
    assert [verdict["flagged"] for _, _, verdict in found] == [False, True, True, False]


@STREAM
def test_a_prompt_of_token_ids(serve, engine, stream):
    server = serve()
    ids = engine.tokenizer(ASKED)["input_ids"]
    for prompt, count in ((ids, 1), ([ids, ids], 2)):
        found = answers(server, ("/v1/completions", {"prompt": prompt}), stream=stream)
        assert [(text, verdict["status"]) for text, _, verdict in found] == [(GOOD, "checked")] * count
        assert server.app.state.openai_serving_completion.asked[-1].prompt == prompt
    engine.says(BAD)
    ((_, _, verdict),) = answers(server, ("/v1/completions", {"prompt": ids}), stream=stream)
    assert verdict["spans"][0]["evidence"]["text"] in ASKED


def test_passages_that_are_not_in_the_messages_are_put_there(serve, engine):
    server = serve()
    post(server, ("/v1/chat/completions", {"messages": [{"role": "user", "content": QUESTION}]}))
    (asked,) = server.app.state.openai_serving_chat.asked
    assert PASSAGE in asked.messages[-1]["content"]
    assert "hallucination" not in asked.model_extra


@pytest.mark.parametrize("body", [{"max_tokens": 7}, {"stop": "in 18"}, {"stop": [" and nothing else"], "n": 2}])
@STREAM
def test_answers_that_end_otherwise(serve, engine, body, stream):
    server = serve()
    engine.says(BAD, GOOD)
    engine.ahead = 2
    found = answers(server, CHAT, body=body, stream=stream)
    assert [verdict["status"] for _, _, verdict in found] == ["checked"] * len(found)
    assert [verdict["flagged"] for _, _, verdict in found] == [True, False][: len(found)]
    assert not any(wish["replay"] for wish in wishes(engine) if wish)
    assert found[0][1] == ("length" if "max_tokens" in body else "stop")


def test_not_checked_and_why(serve, engine):
    server = serve()
    assert answers(server, CHAT, enabled=False) == [(GOOD, "stop", None)]
    assert wishes(engine)[-1] is None  # nor followed
    assert answers(server, CHAT, body={"model": "adapter"})[0][2]["reason"] == "model_mismatch"
    assert answers(server, CHAT, passages=[])[0][2]["reason"] == "no_passages"
    assert answers(server, ("/v1/completions", {"prompt": " "}))[0][2]["reason"] == "no_passages"


@STREAM
def test_a_client_cannot_speak_to_the_worker(serve, engine, stream):
    theirs = {KEY: {"key": "x", "rows": True}, "other": 1}
    server = serve()
    ((_, _, verdict),) = answers(server, CHAT, stream=stream, body={"vllm_xargs": theirs})
    assert verdict["status"] == "checked"
    assert wishes(engine)[-1]["key"] != "x"
    assert engine.requests[-1][1].extra_args["other"] == 1


# -- scores so far


@APIS
def test_chunks_carry_the_score_so_far(serve, engine, api):
    server = serve()
    engine.says(BAD)
    calls = len(engine.calls)
    *content, last = chunks(server, api, running=True)
    scores = [one["hallucination"]["score"] for one in content if "hallucination" in one]
    assert len(scores) == len(content) - 2  # the last token is heard before its row
    assert scores[0] < 0.5 < scores[-1]
    assert last["hallucination"]["status"] == "checked"
    assert scores[-1] == pytest.approx(last["hallucination"]["score"], abs=0.05)
    assert set(engine.calls[calls:]) == {"groundwire_take"}
    assert len(engine.calls) - calls <= 2  # the verdict, and that it may be forgotten
    assert not any("hallucination" in one for one in chunks(server, api)[:-1])


# -- policies


@APIS
@STREAM
def test_policies_act(serve, engine, api, stream):
    server = serve()
    engine.says(BAD)
    found = {policy: answers(server, api, stream=stream, policy=policy)[0] for policy in ("hold", "block", "redact")}
    assert {policy: one[2]["action"] for policy, one in found.items()} == {policy: policy for policy in found}
    assert {policy: one[:2] for policy, one in found.items()} == {
        "hold": (BAD, "stop"),
        "block": (Settings().block_message, "content_filter"),
        "redact": ("It was finished in [unsupported] in 1889.", "stop"),
    }


@APIS
@STREAM
def test_an_answer_is_halted(serve, engine, api, stream):
    server = serve()
    engine.says(BAD, GOOD)
    found = answers(server, api, body={"n": 2}, stream=stream, policy="halt")
    assert [(text, reason, verdict["action"]) for text, reason, verdict in found] == [
        (CUT, "content_filter", "halt"),
        (GOOD, "stop", "annotate"),
    ]
    assert [verdict["status"] for _, _, verdict in found] == ["checked"] * 2
    assert len(engine.aborted) == 1
    assert not any(wish["replay"] for wish in wishes(engine) if wish)
    assert answers(server, api, stream=stream, policy="halt", halt_threshold=1)[0][0] == BAD


@STREAM
def test_the_better_of_two_attempts(serve, engine, stream):
    server = serve()
    engine.answer = lambda prompt, number: GOOD if "Answer again" in prompt else BAD
    ((text, _, verdict),) = answers(server, CHAT, stream=stream, policy="regenerate")
    assert (text, verdict["action"], verdict["status"]) == (GOOD, "regenerate", "checked")
    assert [(one["text"], one["kept"]) for one in verdict["attempts"]] == [(BAD, False), (GOOD, True)]
    assert refused(server, TEXT, policy="regenerate") == (400, "hallucination.policy")


# -- what lingers


@STREAM
def test_answers_that_end_by_length_linger_but_not_with_tools(serve, engine, stream):
    server = serve()
    engine.linger()
    engine.says(engine.tokenizer(GOOD)["input_ids"])
    for more, requests in (({}, 1), ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 2)):
        engine.requests.clear()
        ((text, reason, verdict),) = answers(server, CHAT, body={"max_tokens": 6, **more}, stream=stream)
        assert (reason, verdict["status"], GOOD.startswith(text)) == ("length", "checked", True)
        assert len(engine.requests) == requests
        assert wishes(engine)[0]["linger"] is not bool(more)


# -- reasoning


@STREAM
def test_an_answer_after_reasoning(serve, engine, stream):
    server = serve(mark="</think>")
    engine.says(f"Zion, or rather 1889?</think>\n\n{GOOD}")
    ((text, _, verdict),) = answers(server, CHAT, stream=stream)
    assert (text, verdict["status"], verdict["flagged"]) == (GOOD, "checked", False)
    assert not any(wish["replay"] for wish in wishes(engine) if wish)
    for name, options in (("running", {"running": True}), ("policy", {"policy": "halt"})):
        assert refused(server, CHAT, {"stream": stream}, **options) == (400, f"hallucination.{name}")
    engine.says(GOOD)
    assert (
        answers(server, TEXT, stream=stream, policy="halt")[0][2]["status"] == "checked"
    )  # nothing is taken out there


# -- the end


def test_a_client_that_leaves_ends_what_it_asked_for(serve, engine):
    server = serve()
    engine.says([305] * 5000)
    body = {**CHAT[1], "stream": True, "max_tokens": 5000, "hallucination": {"passages": [PASSAGE], "running": True}}
    with server.client.stream("POST", CHAT[0], json=body) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 30
    while not engine.aborted or engine.followed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(engine.requests) == 1


# -- refusals


def test_what_is_refused(serve, engine):
    server = serve(max_choices=2)
    assert refused(server, TEXT, {"echo": True}) == (400, "echo")
    assert refused(server, CHAT, {"n": 3}) == (400, "n")
    assert refused(server, TEXT, {"prompt": [ASKED] * 3}) == (400, "prompt")
    assert refused(server, CHAT, policy="shout") == (400, "hallucination.policy")
    assert refused(server, CHAT, {"messages": []}) == (400, "messages")
    assert refused(server, ("/v1/completions", {"prompt": [5] * CONTEXT})) == (400, "prompt")
    assert len(engine.requests) == 1  # which vLLM refused
    assert engine.followed == 0


def test_a_server_that_only_observes(serve, engine):
    server = serve(observe_share=1)
    response = post(server, CHAT)
    assert response.headers["x-groundwire-reason"] == "observer_mode"
    assert response.json()["choices"][0]["hallucination"] is None
    assert refused(server, CHAT, running=True) == (400, "hallucination.running")


# -- beside


@pytest.fixture
def beside(serve, monkeypatch) -> Any:
    """A server whose model no detector fits: the public fake judges."""

    async def nothing_fits(*_: Any) -> Beside:
        return Beside("it is another model")

    monkeypatch.setattr(plugin, "fit", nothing_fits)
    monkeypatch.setattr(plugin, "load_detector", lambda settings: fake_detector())
    return serve()


@APIS
@STREAM
def test_the_reader_beside_the_engine_judges(beside, engine, api, stream):
    engine.says(BAD)
    ((text, _, verdict),) = answers(beside, api, stream=stream)
    assert (text, verdict["status"], verdict["flagged"]) == (BAD, "checked", True)
    assert (verdict["detector"]["same_model"], verdict["detector"]["id"]) == (False, "fake")
    assert wishes(engine) == [None]
    assert refused(beside, api, {"stream": stream}, running=True) == (400, "hallucination.running")
    assert refused(beside, api, {"stream": stream}, policy="halt") == (400, "hallucination.policy")
    assert answers(beside, api, stream=stream, policy="block")[0][0] == Settings().block_message


def test_token_ids_are_read_beside_the_engine_too(beside, engine):
    ((text, _, verdict),) = answers(beside, ("/v1/completions", {"prompt": engine.tokenizer(ASKED)["input_ids"]}))
    assert (text, verdict["detector"]["same_model"]) == (GOOD, False)
    assert verdict["reason"] != "no_passages"


def test_nothing_is_put_into_a_prompt_of_token_ids(serve, engine):
    server = serve()
    ids = engine.tokenizer(QUESTION)["input_ids"]
    api = ("/v1/completions", {"prompt": [ids, ids]})
    assert refused(server, api, passages=[PASSAGE]) == (400, "hallucination.passages")
    own = ("/v1/completions", {"prompt": engine.tokenizer(ASKED)["input_ids"]})
    assert answers(server, own, passages=[PASSAGE])[0][2]["status"] == "checked"  # they stand in it


def test_an_id_that_there_is_not_is_for_vllm_to_refuse(serve, engine):
    server = serve()
    post(server, ("/v1/completions", {"prompt": [10**12]}))
    assert server.app.state.openai_serving_completion.asked[-1].prompt == [10**12]


@STREAM
def test_an_adapter_is_another_model_however_it_answers(serve, engine, stream):
    server = serve()
    for body in ({"model": "adapter"}, {"model": "adapter", "use_beam_search": True}):
        ((text, _, verdict),) = answers(server, CHAT, stream=stream, body=body)
        assert (text, verdict["status"], verdict["reason"]) == (GOOD, "not_checked", "model_mismatch")


@pytest.mark.parametrize("stop", ["zzz", "a stop string of many words that never comes"])
def test_a_stop_string_does_not_keep_an_answer_from_being_halted(serve, engine, stop):
    server = serve()
    engine.says(f"{CUT} in 1889. It stands there still, and so does all that is said of it.")
    options = {"policy": "halt", "halt_threshold": 0.0}
    ((cut, reason, _),) = answers(server, CHAT, **options)
    ((text, again, _),) = answers(server, CHAT, body={"stop": [stop]}, **options)
    assert again == reason == "content_filter"
    assert cut.startswith(text)  # vLLM holds back as many characters as the stop string has


def test_what_cannot_be_read_or_told_from_the_answer_is_refused(serve, engine):
    server = serve()
    assert refused(server, CHAT, {"echo": True}) == (400, "echo")
    assert refused(server, TEXT, {"prompt_embeds": "AAAA"}) == (400, "prompt_embeds")


def test_answers_that_nothing_is_to_be_said_of_are_not_followed(serve, engine):
    server = serve()
    post(server, ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story."}]}), passages=[])
    assert wishes(engine)[-1] is None


@STREAM
def test_an_answer_that_fills_the_context_is_judged_without_its_last_token(serve, engine, stream):
    server = serve()
    prompt = len(engine.tokenizer(ASKED)["input_ids"])
    engine.says([7] * (CONTEXT - prompt))
    body = {"max_tokens": CONTEXT - prompt}
    ((text, reason, verdict),) = answers(server, TEXT, stream=stream, body=body, tokens=True)
    assert (reason, verdict["status"]) == ("length", "checked"), verdict
    assert len(verdict["tokens"]) == CONTEXT - prompt - 1
    assert text
