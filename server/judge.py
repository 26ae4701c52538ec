"""Answers of another model, replayed by the local reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

from groundwire.conversation import Found
from groundwire.detector import Detector
from groundwire.server.errors import ApiError
from groundwire.server.shapes import Said
from groundwire.server.upstream import malformed
from groundwire.types import Detection, Example, Reason


@runtime_checkable
class Scores(Protocol):
    """What replays answers, such as `EngineLoop`."""

    detector: Detector

    async def score(self, examples: Sequence[Example], *, admitted: bool = False) -> list[Detection]:
        """Detections in order. `admitted`: there is always room. Raises ApiError."""


@dataclass(frozen=True)
class Judge:
    """The reader, and what the answers to one request are to be judged by.

    name: the request's. found: of each prompt. per_prompt: choices to each. source: of the answers, in metrics and log.
    same_model: whether the detector's own model wrote them.
    """

    source: ClassVar[str] = "gateway"
    same_model: ClassVar[bool] = False

    loop: Scores
    name: str
    found: Sequence[Found]
    per_prompt: int

    def asked(self, index: int) -> Found:
        """What a choice answers. Raises ApiError where so many were not asked for."""
        if index >= self.per_prompt * len(self.found):
            raise malformed("it has more choices than were asked for")
        return self.found[index // self.per_prompt]

    def example(self, said: Said) -> Example:
        """A choice as the reader replays it."""
        asked = self.asked(said.index)
        return Example(f"{self.name}-{said.index}", asked.messages, said.text, passages=asked.passages)

    def reason(self, said: Said) -> Reason | None:
        """Why a choice is not to be checked; None where it is."""
        return "tool_call" if said.calls else self.asked(said.index).reason

    async def detections(self, answers: Sequence[Said]) -> list[Detection]:
        """One for each answer. A failure is a reason not to have checked."""
        reasons = [self.reason(said) for said in answers]
        examples = [self.example(said) for said, reason in zip(answers, reasons, strict=True) if reason is None]
        try:
            found = iter(await self.loop.score(examples, admitted=True))
        except ApiError as error:
            found = iter([self.failed(error.message)] * len(examples))
        return [
            self._told(next(found) if reason is None else self.loop.detector.not_checked(reason)) for reason in reasons
        ]

    def failed(self, why: str) -> Detection:
        """Of an answer that could not be checked."""
        return self._told(self.loop.detector.not_checked("capture_failed", why))

    def broken_off(self) -> Detection:
        """Of an answer that did not come to its end."""
        return self.failed("the answer broke off")

    def running(self, index: int) -> float | None:
        """The score so far of a choice; None where there is none: the tokens of another model are not seen."""
        return None

    def halted(self, index: int) -> bool:
        """Whether the score so far ended a choice. Its upstream then says "stop", and the text so far is the answer."""
        return False

    def _told(self, detection: Detection) -> Detection:
        return detection if self.same_model else foreign(detection)


def foreign(detection: Detection) -> Detection:
    """A detection in an answer that the detector's model did not write."""
    return replace(detection, detector={**(detection.detector or {}), "same_model": False})


def characters(text: str) -> str:
    """`text` as UTF-8 can hold it: JSON, cut into chunks, may hold halves of surrogate pairs."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
