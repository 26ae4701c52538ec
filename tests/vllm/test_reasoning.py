"""A server that takes reasoning out of the answer: the verdict is on what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from groundwire.detector import Detector
from groundwire.engines.base import Asked
from tests.vllm.conftest import Server, messages, ours, stock

FLAGS = (
    "--structured-outputs-config",
    json.dumps({"reasoning_parser": "granite", "enable_in_reasoning": True}),
)
THOUGHT = "Here is my thought process: The passage names the builder. Here is my response:"
ANSWER = " It was built by Ana Dias in 1889."


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
    assert mine.message.content.strip() == ANSWER.strip()
    assert mine.message.reasoning == theirs.message.reasoning
    found = mine.model_extra["hallucination"]
    assert found["status"] == "checked"
    reference = Detector.from_pretrained(reading="own")
    reply = ask(server, extra={"return_token_ids": True})
    prompt, ids = reply.model_extra["prompt_token_ids"], reply.choices[0].model_extra["token_ids"]
    thought = next(n for n in range(len(ids)) if reference.tokenizer.decode(ids[:n]) == THOUGHT)
    said = ids[thought:-1] if ids[-1] == reference.tokenizer.eos_token_id else ids[thought:]
    ((readout,),) = reference.engine.replay([Asked([*prompt, *ids[:thought]], [said])], reference.artifact.scorer)
    assert found["logit"] - found["shares"]["grounding"] == pytest.approx(readout.logit, abs=1e-3)


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


@pytest.mark.parametrize("options", [{"running": True}, {"policy": "halt"}])
def test_there_is_no_score_so_far(server, options):
    with pytest.raises(openai.BadRequestError, match="reasoning is taken out"):
        ask(server, extra={"hallucination": options})
