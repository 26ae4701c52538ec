"""A model that no detector fits: it is served, and the default reader judges beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.vllm.conftest import Server, messages, ours


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], gemma: Path) -> Server:
    return serve(tiny(gemma))


def tiny(folder: Path) -> list[str]:
    """The command for a model whose context is 256 tokens."""
    return ["256" if part == "2048" else part for part in ours(str(folder), "--served-model-name", "tiny")]


def ask(server: Server, **more):
    question = [{"role": "user", "content": "Passage 1: The lighthouse is 41 m high.\n\nQuestion: How high?"}]
    return server.client.chat.completions.create(model="tiny", messages=question, max_tokens=12, **more)


def test_the_start_says_so_and_how_a_detector_is_trained(server, gemma):
    said = server.log.read_text(encoding="utf-8", errors="replace")
    assert "no detector fits" in said
    assert "was trained with another tokenizer" in said
    assert "judges them; `detector.same_model` is false" in said
    assert f"groundwire train sae TEXT.jsonl -o dictionary --model {gemma}" in said
    assert "groundwire train detector LABELLED.jsonl" in said


def test_answers_carry_a_verdict_of_the_default_reader(server):
    found = ask(server, temperature=0).choices[0].model_extra["hallucination"]
    assert found["status"] in ("checked", "not_checked")
    assert found["detector"]["same_model"] is False
    assert found["detector"]["model"] == "smollm2-135m-instruct-q4_1"


def test_streams_too(server):
    ends = [c for chunk in ask(server, stream=True) for c in chunk.choices if c.finish_reason]
    assert (ends[0].model_extra or {})["hallucination"]["detector"]["same_model"] is False


@pytest.mark.parametrize("options", [{"running": True}, {"policy": "halt"}])
def test_there_is_no_score_so_far(server, options):
    with pytest.raises(openai.BadRequestError, match=r"another model generates|model of this server generates"):
        ask(server, extra_body={"hallucination": options})


def test_rows_that_exist_are_judged(server):
    import httpx

    row = {"messages": messages(0), "response": "It was built by Ana Dias."}
    found = httpx.post(f"{server.url}/v1/detect", json=row, timeout=60).json()["hallucination"]
    assert found["status"] == "checked"
