"""Whatever is sent to the generating APIs is answered, and never as a fault of the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundwire.engines.fake import fake_detector
from groundwire.server import generating
from groundwire.server.options import Options
from groundwire.server.protocol_chat import ChatMessage, ChatRequest
from groundwire.server.protocol_completion import CompletionRequest
from groundwire.server.settings import Settings

PATHS = {"/v1/chat/completions": ChatRequest, "/v1/completions": CompletionRequest}
scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20) | st.just("\ud800")
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner))


def fields_of(model: Any) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(sorted(model.model_fields))
    return st.dictionaries(names, values, max_size=4)


sane = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool"]), "content": st.text(max_size=60)}
)
messages = st.lists(sane | fields_of(ChatMessage) | st.builds(lambda a, b: a | b, sane, fields_of(ChatMessage)))
prompts = st.text(max_size=60) | st.lists(st.text(max_size=60), max_size=3)
options = fields_of(Options) | st.fixed_dictionaries(
    {"policy": st.sampled_from(["annotate", "redact", "block", "regenerate", "halt", "hold"])},
    optional={
        "passages": st.lists(st.text(max_size=40), max_size=3),
        "tokens": st.booleans(),
        "threshold": st.floats(0, 1),
        "running": st.booleans(),
        "top_terms": st.integers(0, 100),
    },
)
sampling = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 3),
        "stream": st.booleans(),
        "max_tokens": st.integers(1, 40),
        "stop": st.text(max_size=2) | st.lists(st.text(max_size=2), max_size=5),
        "hallucination": options,
    },
)


@pytest.fixture(scope="module")
def server(serving: Callable[..., AbstractContextManager[Any]]) -> Iterator[Any]:
    with serving(settings=Settings(), detector=fake_detector()) as running:
        yield running


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # the server's thread may, while a body is drawn
@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_sent_is_answered(server, path, data):
    known = data.draw(st.fixed_dictionaries({}, optional={"messages": messages, "prompt": prompts}))
    wanted = "prompt" if path == "/v1/completions" else "messages"
    body = {
        "model": "fake",
        wanted: data.draw(prompts if wanted == "prompt" else messages),
        **data.draw(sampling),
        **data.draw(st.just({}) | fields_of(PATHS[path]) | st.just(known)),
    }
    content = json.dumps(body).encode()  # NaN, Infinity and half surrogate pairs included
    response = server.client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code == 200 and "event-stream" in response.headers["content-type"]:
        assert response.text.endswith("data: [DONE]\n\n"), response.text[-300:]
    elif response.status_code == 200:
        assert all("hallucination" in choice for choice in response.json()["choices"])
    else:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", PATHS)
def test_the_schema_is_served(server, path):
    operation = server.client.get("/openapi.json").json()["paths"][path]["post"]
    assert set(operation["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert operation["requestBody"]["required"]


def test_a_fingerprint_is_of_model_and_detector():
    detector = fake_detector()
    found = generating.fingerprint(detector)
    assert found == generating.fingerprint(fake_detector())
    detector.engine.fingerprint = {"tokenizer": "another"}
    assert generating.fingerprint(detector) != found
    assert found.startswith("fp_")
