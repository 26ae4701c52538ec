"""Requests to the tiny models and what comes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from groundwire.calibration import sigmoid
from groundwire.engines.base import Asked
from groundwire.engines.transformers import TransformersEngine
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Sampling, Step, Token
from tests.detector.tiny import user

TOLERANCE = 1e-3  # in score: what docs/architecture.md promises between decode and prefill
QUESTIONS = ("Who?", "Passage 1: The lighthouse was finished in 1889. Question: Who built it?", "It is high")


def requests(*, questions: Sequence[str] = QUESTIONS, **sampling: Any) -> list[Request]:
    return [Request(f"r{i}", user(question), Sampling(**sampling)) for i, question in enumerate(questions)]


def run(engine: TransformersEngine, scorer: Scorer, asked: Sequence[Request]) -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {request.id: [] for request in asked}
    for name, step in engine.generate(asked, scorer):
        found[name].append(step)
    return found


def replay(
    engine: TransformersEngine, prompt: Sequence[int], responses: Sequence[Sequence[int]], scorer: Scorer
) -> list[Readout]:
    return engine.replay([Asked(prompt, responses)], scorer)[0]


def tokens_of(steps: Sequence[Step]) -> list[Token]:
    return [token for step in steps for token in step.tokens]


def readout_of(steps: Sequence[Step]) -> Readout:
    assert steps[-1].readout is not None
    return steps[-1].readout


def text_of(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps)


def same_score(a: Readout, b: Readout) -> bool:
    return a.rows == b.rows and abs(sigmoid(a.logit) - sigmoid(b.logit)) < TOLERANCE


def check_rows(steps: Sequence[Step]) -> None:
    """What holds for every finished answer, however it ended."""
    tokens, text, readout = tokens_of(steps), text_of(steps), readout_of(steps)
    assert readout.rows == len(tokens) == sum(len(step.features) for step in steps)
    assert [t.start for t in tokens] == sorted(t.start for t in tokens)
    assert all(0 <= t.start <= t.end <= len(text) for t in tokens)
    assert steps[-1].logit == pytest.approx(readout.logit) or not tokens
    assert all(step.finish_reason is None and step.readout is None for step in steps[:-1])
    assert readout.finite
