"""Answers that are generated and judged together; requests come and go between steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

from groundwire.calibration import sigmoid
from groundwire.grounding import GroundingHead
from groundwire.source import Source
from groundwire.types import Detection, Request, Step, Token

if TYPE_CHECKING:
    from groundwire.detector import Detector

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What a step brought one request.

    running: score of the answer so far; None before its first row, and where it is not checked or not wanted.
    detection: on the last step, over all of it.
    """

    id: str
    step: Step
    running: float | None = None
    detection: Detection | None = None


@dataclass
class _UnderWay:
    request: Request
    source: Source
    added: Callable[[str], float] | None
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    check_seconds: float = 0.0


class Answering:
    """Requests that decode together, each with its running score and, at the end, its detection.

    Not for several threads. Abandoned, it leaves nothing behind.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector, self._head = detector, detector.artifact.grounding
        self._generation = detector.engine.begin(detector.artifact.scorer)
        self._under_way: dict[str, _UnderWay] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def add(self, request: Request) -> int:
        """Let a request join at the next step; return its prompt's tokens. Raises what `Generation.add` raises."""
        source = Source.of(request)
        tokens = self._generation.add(request)
        added = added_by(self._head, source) if request.check and request.running else None
        self._under_way[request.id] = _UnderWay(request, source, added)
        return tokens

    def drop(self, request_id: str) -> None:
        """Abandon a request; an unknown id is ignored."""
        self._generation.drop(request_id)
        self._under_way.pop(request_id, None)

    def step(self) -> list[Progress]:
        """Advance every request by one token; nothing where there is none."""
        return [self._progress(self._under_way[name], step) for name, step in self._generation.step()]

    def _progress(self, answer: _UnderWay, step: Step) -> Progress:
        answer.text += step.text
        answer.tokens += step.tokens
        if step.logit is not None and answer.added is not None:
            start = perf_counter()
            step = replace(step, logit=step.logit + answer.added(answer.text))
            answer.check_seconds += perf_counter() - start
        running = None if step.logit is None else sigmoid(step.logit)
        detection = None
        if step.finish_reason is not None:
            detection = self._detection(answer, step)
            del self._under_way[answer.request.id]
            step = replace(step, prompt=None)  # whoever keeps the step shall not keep the batch's cache
        return Progress(answer.request.id, step, running, detection)

    def _detection(self, answer: _UnderWay, step: Step) -> Detection:
        if step.readout is None:
            return self._detector.not_checked("disabled")
        try:
            found = self._detector.judge(answer.request, answer.text, answer.tokens, step, answer.source)
        except Exception as error:  # the answer is there, and so are those that decode with it
            logger.exception("an answer was not checked")
            return self._detector.not_checked("capture_failed", type(error).__name__)
        return replace(found, check_seconds=found.check_seconds + answer.check_seconds)


def added_by(head: GroundingHead | None, source: Source) -> Callable[[str], float]:
    """What an answer's text so far adds to its running logit. Each call's text begins with the one before."""
    if head is None:
        return lambda text: 0.0
    growing = source.grounding.follow()
    return lambda text: float(head.contributions(growing.measure(text)).sum())
