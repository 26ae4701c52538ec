"""Verdicts on answers of the model that vLLM serves, from the pass that wrote them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groundwire.detector import Detector
from groundwire.engines.vllm.wire import unpack
from groundwire.server.errors import ApiError
from groundwire.server.judge import Judge
from groundwire.server.shapes import Said
from groundwire.server.vllm.follow import Choice, Follow, finish, take
from groundwire.server.vllm.link import Link
from groundwire.server.vllm.scoring import Scoring
from groundwire.server.vllm.visible import Visible, visible
from groundwire.source import Source
from groundwire.types import Detection, Reason

logger = logging.getLogger(__name__)

ADAPTER = "a LoRA adapter wrote this answer; the detector was trained on the model without"


@dataclass(frozen=True)
class OwnJudge(Judge):
    """As `Judge`, for a model that the detector belongs to.

    follow: the request as it was generated; what it has no rows of is replayed. client: vLLM's engine. foreign: a LoRA
    adapter answers, which is another model.
    """

    source: ClassVar[str] = "engine"
    same_model: ClassVar[bool] = True

    follow: Follow
    link: Link
    client: Any
    foreign: bool = False

    async def detections(self, answers: Sequence[Said]) -> list[Detection]:
        """One for each answer. A failure is a reason not to have checked."""
        return list(await asyncio.gather(*(self._detection(said) for said in answers)))

    def reason(self, said: Said) -> Reason | None:
        """Why a choice is not to be checked; None where it is."""
        choice = self.follow.choice(said.index)
        foreign = self.foreign or (choice is not None and choice.asked.foreign)
        return super().reason(said) or ("model_mismatch" if foreign else None)

    def running(self, index: int) -> float | None:
        """The score so far."""
        return self.follow.running(index)

    def halted(self, index: int) -> bool:
        """Whether the score so far ended it."""
        choice = self.follow.choice(index)
        return choice is not None and choice.halted

    async def _detection(self, said: Said) -> Detection:
        detector = self.loop.detector
        if (reason := self.reason(said)) is not None:
            return detector.not_checked(reason, ADAPTER if reason == "model_mismatch" else None)
        choice = self.follow.choice(said.index)
        try:
            found = await self._own(said, choice) if choice is not None else None
            if found is None:
                (found,) = await self.loop.score([self.example(said)], admitted=True)
        except ApiError as error:
            return self.failed(error.message)
        except Exception as error:  # the answer is there, whatever became of its rows
            logger.exception("an answer was not checked")
            return self.failed(type(error).__name__)
        return found

    async def _own(self, said: Said, choice: Choice) -> Detection | None:
        """From the rows of the pass that generated the answer; None where they are not all there."""
        scoring: Scoring = self.loop  # type: ignore[assignment]
        if not said.text.strip():
            return scoring.detector.not_checked("empty_response")
        seen = await scoring.run(_visible, scoring.detector, choice, said.text)
        if seen is None or not seen.tokens:
            return None
        tokens, needed = seen.tokens, seen.skip + len(seen.tokens)
        if needed > choice.rows:
            if needed > choice.rows + 1:
                return None
            if not (choice.asked.plain and await finish(self.client, choice)):
                tokens = tokens[:-1]  # it was never read; what came before it was
                if not tokens:
                    return None
        (data,) = await self.link.take([take(choice, len(tokens), seen.skip)])
        if data is None:
            return None
        return await scoring.run(_detected, scoring.detector, data, said.text, tokens, Source.of(self.example(said)))


def _visible(detector: Detector, choice: Choice, text: str) -> Visible | None:
    return visible(detector.tokenizer, choice.visible, text, last=choice.asked.late)


def _detected(detector: Detector, data: bytes, text: str, tokens: Any, source: Source) -> Detection:
    return detector.detect(unpack(data, detector.artifact.scorer), text, tokens, source)
