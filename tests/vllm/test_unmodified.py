"""An unmodified `vllm serve` with our plugin and worker, and its own scheduler."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from groundwire.detector import Detector
from groundwire.engines.vllm.worker import WORKER
from groundwire.types import Example
from tests.vllm.conftest import Server, messages, stock


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], default_folder: str) -> Server:
    return serve(stock(default_folder, "--worker-cls", WORKER), VLLM_PLUGINS="groundwire")


@pytest.fixture(scope="module")
def reference() -> Detector:
    return Detector.from_pretrained(reading="own")


def test_the_start_says_what_the_scheduler_would_save(server):
    said = server.log.read_text(encoding="utf-8", errors="replace")
    assert "--scheduler-cls groundwire.engines.vllm.scheduler.Scheduler" in said


@pytest.mark.parametrize("tokens", [200, 9, 1])
@pytest.mark.parametrize("extra", [{}, {"cache_salt": "tenant"}])
def test_a_verdict_counts_all_tokens_whatever_ends_the_answer(server, reference, tokens, extra):
    reply = server.client.chat.completions.create(
        model=server.model,
        messages=messages(0),  # type: ignore[arg-type]
        temperature=0,
        max_tokens=tokens,
        extra_body={"hallucination": {"tokens": True}, **extra},
    )
    (choice,) = reply.choices
    assert choice.finish_reason == ("stop" if tokens == 200 else "length")
    found = choice.model_extra["hallucination"]
    expected = reference.score(Example("x", messages(0), choice.message.content))
    assert (found["status"], found["detector"]["same_model"]) == ("checked", True)
    assert len(found["tokens"]) == len(expected.tokens)
    assert found["score"] == pytest.approx(expected.score, abs=1e-3)
