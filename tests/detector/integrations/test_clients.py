"""What of the verdict other libraries' clients keep: read from the object their user holds, streaming and not.

| client | whole reply | stream |
| --- | --- | --- |
| openai | `choice.hallucination` | the same, on the chunk with the finish reason |
| LlamaIndex OpenAILike | `response.raw.choices[0].hallucination` | the same, of the last chunk |
| LiteLLM SDK | `choice.provider_specific_fields` | with `mirror`: `delta.provider_specific_fields` |
| LiteLLM proxy | `choice.provider_specific_fields` | with `mirror`: `delta.provider_specific_fields` |
| LangChain ChatOpenAI | nothing; `ChatGroundwire` (see its test) keeps it in `response_metadata` | the same |
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

LIGHTHOUSE = "The lighthouse was built in 1889 by a builder from Lisbon."
QUESTION = "When was the lighthouse built?"
BAD = f"Context:\n{LIGHTHOUSE}\n\nQuestion: {QUESTION}"
RAG: list[Any] = [{"role": "user", "content": BAD}]
GIVEN = {"hallucination": {"passages": [LIGHTHOUSE]}}
MIRROR = {"hallucination": {"mirror": True}}


def test_openai(server_url: str) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        whole = client.chat.completions.create(model="fake", messages=RAG)
        with client.chat.completions.create(model="fake", messages=RAG, stream=True) as stream:
            chunks = list(stream)
        raw = client.chat.completions.with_raw_response.create(model="fake", messages=RAG)
        text = client.completions.create(model="fake", prompt=BAD)
        given = client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": QUESTION}], extra_body=GIVEN
        )
    assert whole.choices[0].hallucination["flagged"] is True
    assert [c.choices[0].hallucination["flagged"] for c in chunks if c.choices[0].finish_reason] == [True]
    assert raw.headers["x-groundwire-flagged"] == "true"
    assert text.choices[0].hallucination["flagged"] is True
    assert given.choices[0].hallucination["flagged"] is True


@pytest.mark.parametrize("chat", [True, False])
def test_llamaindex_openai_like(server_url: str, chat: bool) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like", reason="llama-index-llms-openai-like is not installed")
    model = like.OpenAILike(
        model="fake", api_base=f"{server_url}/v1", api_key="none", is_chat_model=chat, context_window=2000
    )
    assert model.complete(BAD).raw.choices[0].hallucination["flagged"] is True
    assert list(model.stream_complete(BAD))[-1].raw.choices[0].hallucination["flagged"] is True
    assert model.complete(QUESTION, extra_body=GIVEN).raw.choices[0].hallucination["flagged"] is True


litellm_warnings = pytest.mark.filterwarnings(
    "ignore:Item '.*' on TypedDict:UserWarning", "ignore::DeprecationWarning", "ignore:Pydantic serializer:UserWarning"
)


@litellm_warnings
def test_litellms_sdk(server_url: str) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    call: Any = {"model": "openai/fake", "api_base": f"{server_url}/v1", "api_key": "none", "messages": RAG}
    choice = litellm.completion(**call).choices[0]
    assert choice.provider_specific_fields["hallucination"]["flagged"] is True
    assert not any(_of_delta(chunk) for chunk in litellm.completion(**call, stream=True))
    chunks = list(litellm.completion(**call, stream=True, extra_body=MIRROR))
    verdicts = [found for chunk in chunks if (found := _of_delta(chunk))]
    assert [verdict["flagged"] for verdict in verdicts] == [True]
    mirrored = litellm.completion(**call, extra_body=MIRROR).choices[0].message
    assert mirrored.provider_specific_fields["hallucination"] == verdicts[0]


@litellm_warnings
@pytest.mark.slow
def test_litellms_proxy(proxy: Callable[..., str]) -> None:
    choice = json.loads(proxy(model="open", messages=RAG))["choices"][0]
    assert choice["provider_specific_fields"]["hallucination"]["flagged"] is True
    choice = json.loads(proxy(model="open", messages=[{"role": "user", "content": QUESTION}], **GIVEN))["choices"][0]
    assert choice["provider_specific_fields"]["hallucination"]["flagged"] is True
    lines = proxy(model="open", messages=RAG, stream=True, **MIRROR).splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    fields = [delta.get("provider_specific_fields") or {} for delta in deltas]
    assert [found["hallucination"]["flagged"] for found in fields if "hallucination" in found] == [True]


def _of_delta(chunk: Any) -> dict[str, Any] | None:
    return (chunk.choices[0].delta.provider_specific_fields or {}).get("hallucination")
