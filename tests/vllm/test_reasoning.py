"""A server that takes reasoning out of the answer: the verdict is on what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.prompts import render, tokenize_response
from tests.vllm.conftest import Server, messages, ours, stock

FLAGS = (
    "--structured-outputs-config",
    json.dumps({"reasoning_parser": "deepseek_r1", "enable_in_reasoning": True}),
)
THOUGHT, ANSWER = "<think>\nThe passage names the builder.\n</think>\n\n", "It was built by Ana Dias in 1889."


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server]) -> Server:
    return serve(ours(*FLAGS))


@pytest.fixture(scope="module")
def plain(serve: Callable[..., Server], default_folder: str) -> Server:
    return serve(stock(default_folder, *FLAGS, "--served-model-name", "smollm2-135m-instruct-q4_1"))


def ask(server: Server, **more: Any) -> Any:
    """What is thought and said is dictated: so small a model does not think by itself."""
    extra = {"structured_outputs": {"choice": [THOUGHT + ANSWER]}, **more.pop("extra", {})}
    return server.client.chat.completions.create(
        model=server.model,
        messages=messages(0),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=64,
        extra_body=extra,
        **more,
    )


def test_only_the_answer_is_judged(server, plain):
    mine, theirs = ask(server).choices[0], ask(plain).choices[0]
    assert mine.message.content == theirs.message.content
    assert mine.message.content.strip() == ANSWER
    assert mine.message.reasoning == theirs.message.reasoning
    found = mine.model_extra["hallucination"]
    assert found["status"] == "checked"
    reference = Detector.from_pretrained()
    prompt = render(reference.tokenizer, messages(0))
    thought = [token.id for token in tokenize_response(reference.tokenizer, THOUGHT)]
    said = [token.id for token in tokenize_response(reference.tokenizer, ANSWER)]
    ((readout,),) = reference.engine.replay([Asked([*prompt, *thought], [said])], reference.artifact.scorer)
    assert found["logit"] - _grounding(found) == pytest.approx(readout.logit, abs=0.05)


def test_a_stream_has_the_same_verdict(server):
    text, last = "", None
    for chunk in ask(server, stream=True):
        for choice in chunk.choices:
            text += choice.delta.content or ""
            last = (choice.model_extra or {}).get("hallucination") or last
    whole = ask(server).choices[0]
    assert text == whole.message.content
    assert last is not None
    assert last["score"] == pytest.approx(whole.model_extra["hallucination"]["score"], abs=1e-3)


def test_an_answer_that_is_all_reasoning_claims_nothing(server):
    reply = server.client.chat.completions.create(
        model=server.model,
        messages=messages(0),
        temperature=0,
        max_tokens=8,  # type: ignore[arg-type]
    )
    found = reply.choices[0].model_extra["hallucination"]
    assert (found["status"], found["reason"]) == ("not_checked", "empty_response")


@pytest.mark.parametrize("options", [{"running": True}, {"policy": "halt"}])
def test_there_is_no_score_so_far(server, options):
    with pytest.raises(openai.BadRequestError, match="reasoning is taken out"):
        ask(server, extra={"hallucination": options})


def _grounding(found: dict[str, Any]) -> float:
    return found["shares"]["grounding"]
