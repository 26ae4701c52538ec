"""LiteLLM's SDK with the guardrail in its callbacks, and its proxy with it in the configuration."""

from __future__ import annotations

import asyncio
import json
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest

from groundwire.errors import InputError

# It warns while it is imported; importorskip ignores that.
pytest.importorskip("litellm.integrations.custom_guardrail", reason="litellm is not installed")

import litellm
from litellm.exceptions import GuardrailRaisedException
from litellm.types.guardrails import GuardrailEventHooks

from groundwire.integrations.litellm import GroundwireGuardrail

# LiteLLM's own: of models it builds when they are first used, and of clients it keeps.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Item '.*' on TypedDict:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

LIGHTHOUSE = "The lighthouse was built in 1889 by a builder from Lisbon."
QUESTION = "When was the lighthouse built?"
RAG = [{"role": "user", "content": f"Context:\n{LIGHTHOUSE}\n\nQuestion: {QUESTION}"}]
GOOD, BAD = "The lighthouse was built in 1889.", "The lighthouse was built in 1931."
NOWHERE = "http://127.0.0.1:9"


def guardrail(url: str, **options: Any) -> GroundwireGuardrail:
    return GroundwireGuardrail(url, guardrail_name="groundwire", event_hook=GuardrailEventHooks.post_call, **options)


def reply(*answers: str, **message: Any) -> litellm.ModelResponse:
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": answer, **message}}
        for i, answer in enumerate(answers)
    ]
    return litellm.ModelResponse(choices=choices)


def judged(used: GroundwireGuardrail, response: Any, messages: Any = RAG, **data: Any) -> list[dict[str, Any]]:
    hook = used.async_post_call_success_hook({"messages": messages, **data}, None, response)
    return [choice.message.provider_specific_fields["hallucination"] for choice in asyncio.run(hook).choices]


def streamed(used: GroundwireGuardrail, *texts: str, messages: Any = RAG) -> list[Any]:
    """What comes out when an answer goes in as chunks, the last of them with the finish reason alone."""

    async def chunks() -> Any:
        for text in (*texts, None):
            delta = {"content": text} if text else {}
            choice = {"index": 0, "delta": delta, "finish_reason": None if text else "stop"}
            yield litellm.ModelResponseStream(choices=[choice])

    async def gathered() -> list[Any]:
        hook = used.async_post_call_streaming_iterator_hook(None, chunks(), {"messages": messages})
        return [chunk async for chunk in hook]

    return asyncio.run(gathered())


def test_each_choice_has_its_verdict(server_url: str) -> None:
    verdicts = judged(guardrail(server_url), reply(GOOD, BAD))
    assert [verdict["flagged"] for verdict in verdicts] == [False, True]
    assert verdicts[1]["spans"][0]["text"] == "1931"


def test_the_url_may_end_as_openais_does(server_url: str) -> None:
    assert judged(guardrail(f"{server_url}/v1/"), reply(BAD))[0]["flagged"] is True


def test_results_of_tools_and_contents_in_parts(server_url: str) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": LIGHTHOUSE, "tool_call_id": "call_1"},
    ]
    assert judged(guardrail(server_url), reply(BAD), messages)[0]["flagged"] is True
    assert judged(guardrail(server_url), reply(GOOD), messages)[0]["flagged"] is False


def test_passages_given_in_the_metadata(server_url: str) -> None:
    asked = [{"role": "user", "content": QUESTION}]
    metadata = {"hallucination": {"passages": [{"id": "tower", "text": LIGHTHOUSE}]}}
    assert judged(guardrail(server_url), reply(BAD), asked, metadata=metadata)[0]["flagged"] is True
    metadata = {"hallucination": {"passages": []}}
    assert judged(guardrail(server_url), reply(BAD), metadata=metadata)[0]["reason"] == "no_passages"
    metadata = {"hallucination": {"passages": [3]}}
    assert judged(guardrail(server_url), reply(BAD), metadata=metadata)[0]["reason"] == "invalid_input"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "answer", "calls", "reason"),
    [
        ([{"role": "user", "content": "Hi!"}], "Hello!", None, "no_passages"),
        (RAG, " ", None, "empty_response"),
        (RAG, "", [CALL], "tool_call"),
        ([], "Hello!", None, "no_passages"),
    ],
)
def test_what_need_not_be_asked_is_not(messages: Any, answer: str, calls: Any, reason: str) -> None:
    [verdict] = judged(guardrail(NOWHERE, on_failure="closed"), reply(answer, tool_calls=calls), messages)
    assert (verdict["status"], verdict["reason"], verdict["score"]) == ("not_checked", reason, None)


def test_an_unfaithful_answer_can_be_refused(server_url: str) -> None:
    used = guardrail(server_url, policy="block")
    assert judged(used, reply(GOOD))[0]["flagged"] is False
    with pytest.raises(GuardrailRaisedException, match="does not stay with its passages") as refused:
        judged(used, reply(GOOD, BAD))
    assert refused.value.blocked_content


def test_a_server_that_cannot_be_asked(caplog: pytest.LogCaptureFixture) -> None:
    [verdict] = judged(guardrail(NOWHERE, policy="block"), reply(BAD))
    assert (verdict["status"], verdict["reason"]) == ("not_checked", "capture_failed")
    with pytest.raises(GuardrailRaisedException, match="could not be checked") as refused:
        judged(guardrail(NOWHERE, on_failure="closed"), reply(BAD))
    assert (refused.value.status_code, refused.value.blocked_content) == (503, False)


def test_a_stream_has_its_verdict_on_the_last_chunk(server_url: str) -> None:
    chunks = streamed(guardrail(server_url), "The lighthouse was", " built in 1931.")
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["The lighthouse was", " built in 1931.", None]
    assert chunks[-1].choices[0].delta.provider_specific_fields["hallucination"]["flagged"] is True
    sent = json.loads(chunks[-1].model_dump_json())
    assert sent["choices"][0]["delta"]["provider_specific_fields"]["hallucination"]["spans"][0]["text"] == "1931"


def test_a_stream_can_be_refused_before_it_starts(server_url: str) -> None:
    used = guardrail(server_url, policy="block")
    assert len(streamed(used, "The lighthouse was", " built in 1889.")) == 3
    with pytest.raises(GuardrailRaisedException):
        streamed(used, "The lighthouse was", " built in 1931.")


@pytest.mark.parametrize("options", [{"policy": "monitor"}, {"on_failure": "fail_open"}])
def test_other_settings_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="Expected: "):
        guardrail(NOWHERE, **options)


def test_a_reply_of_another_kind_passes() -> None:
    other = litellm.EmbeddingResponse()
    hook = guardrail(NOWHERE, on_failure="closed").async_post_call_success_hook({}, None, other)
    assert asyncio.run(hook) is other


@pytest.mark.parametrize("keywords", [True, False])
def test_in_the_sdk(server_url: str, monkeypatch: pytest.MonkeyPatch, keywords: bool) -> None:
    """As LiteLLM calls it, with an answer that stands in for a model's."""
    monkeypatch.setattr(litellm, "callbacks", [guardrail(server_url)])
    asked: Any = {"model": "openai/gpt-4o", "messages": RAG}
    options: Any = {"mock_response": BAD, "guardrails": ["groundwire"]}
    call = litellm.acompletion(**asked, **options) if keywords else litellm.acompletion(*asked.values(), **options)
    response: Any = asyncio.run(call)
    assert response.choices[0].message.content == BAD
    assert response.choices[0].message.provider_specific_fields["hallucination"]["flagged"] is True


Ask = Callable[..., str]


def asked(proxy: Ask, guardrail: str, *, stream: bool = False) -> str:
    return proxy(model="closed", messages=RAG, guardrails=[guardrail], stream=stream)


@pytest.mark.slow
def test_in_the_proxy(proxy: Ask) -> None:
    choice = json.loads(asked(proxy, "monitor"))["choices"][0]
    assert choice["message"]["content"] == BAD
    assert choice["message"]["provider_specific_fields"]["hallucination"]["flagged"] is True


@pytest.mark.slow
def test_in_a_stream_of_the_proxy(proxy: Ask) -> None:
    lines = [line.removeprefix("data: ") for line in asked(proxy, "monitor", stream=True).splitlines() if line]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == BAD
    verdicts = [d["provider_specific_fields"]["hallucination"] for d in deltas if d.get("provider_specific_fields")]
    assert [verdict["flagged"] for verdict in verdicts] == [True]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_the_proxy_refuses(proxy: Ask, stream: bool) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(proxy, "refuse", stream=stream)
    with refused.value:
        said = refused.value.read().decode()
    assert refused.value.code == 400
    assert "does not stay with its passages" in said
    assert "1931" not in said
