"""A gateway whose reader is the real model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from openai import OpenAI

from groundwire.detector import DEFAULT_ARTIFACT, Artifact, Detector
from groundwire.engines.reader import Reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.server import gateway
from groundwire.server.settings import Settings

pytestmark = pytest.mark.model

PASSAGES = [
    {"id": "1", "text": "The Kastrup bridge opened in 1931. It is 642 metres long and was designed by Ida Holm."},
    {"id": "2", "text": "Until 1972 a toll was charged to cross the bridge."},
]
QUESTION = "When did the Kastrup bridge open, and who designed it?"
ANSWERS = [
    "It opened in 1931 and was designed by Ida Holm.",
    "It opened in 1958 and was designed by Santiago Calatrava, who also built the airport – “the white one”.",
]


def test_verdicts_equal_those_of_detect(
    reader: Reader, serving: Callable[..., AbstractContextManager[Any]], scripted: Any
) -> None:
    engine = TransformersEngine(reader, Artifact.from_pretrained(DEFAULT_ARTIFACT).hookpoint)
    settings, detector = Settings(upstream_url=scripted.url), Detector.from_pretrained(engine=engine)
    assert gateway.router.routes
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(ANSWERS)
    ]
    chunks = [
        {"choices": [{"index": i, "delta": {"content": part}, "finish_reason": None}]}
        for i, text in enumerate(ANSWERS)
        for part in (text[:7], text[7:])
    ]
    ends = [{"choices": [{"index": i, "delta": {}, "finish_reason": "stop"}]} for i in range(2)]
    with (
        serving(settings=settings, detector=detector) as server,
        OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0, timeout=120) as client,
    ):
        rows = [{"context": PASSAGES, "question": QUESTION, "response": text} for text in ANSWERS]
        wanted = [r["hallucination"] for r in server.client.post("/v1/detect", json={"inputs": rows}).json()["results"]]
        asked: dict[str, Any] = {
            "model": "gpt-x",
            "messages": [{"role": "user", "content": QUESTION}],
            "n": 2,
            "extra_body": {"hallucination": {"passages": PASSAGES}},
        }
        scripted.says({"choices": choices})
        whole = client.chat.completions.create(**asked)
        scripted.streams(*chunks, *ends, b"data: [DONE]\n\n")
        parts = [c for part in client.chat.completions.create(stream=True, **asked) for c in part.choices]
    streamed = sorted((c for c in parts if c.finish_reason), key=lambda c: c.index)
    for found in (whole.choices, streamed):
        for choice, one in zip(found, wanted, strict=True):
            verdict = choice.model_extra["hallucination"]
            assert verdict["score"] == pytest.approx(one["score"], abs=1e-3)
            assert verdict["flagged"] is one["flagged"]
            assert [(s["start"], s["end"]) for s in verdict["spans"]] == [(s["start"], s["end"]) for s in one["spans"]]
            assert (verdict["detector"]["same_model"], one["detector"]["same_model"]) == (False, True)
    assert wanted[0]["score"] < wanted[1]["score"]
    assert wanted[1]["flagged"] is True
