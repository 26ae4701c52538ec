"""Answers of another model, replayed by the local reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from groundwire.conversation import Found
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.errors import ApiError
from groundwire.server.shapes import Said
from groundwire.server.upstream import malformed
from groundwire.types import Detection, Example, Reason


@dataclass(frozen=True)
class Judge:
    """The reader, and what the answers to one request are to be judged by.

    name: the request's. found: of each prompt. per_prompt: choices to each.
    """

    loop: EngineLoop
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
            found = iter([self.loop.detector.not_checked("capture_failed", error.message)] * len(examples))
        return [
            foreign(next(found) if reason is None else self.loop.detector.not_checked(reason)) for reason in reasons
        ]

    def broken_off(self) -> Detection:
        """Of an answer that did not come to its end."""
        return foreign(self.loop.detector.not_checked("capture_failed", "the upstream's answer broke off"))


def foreign(detection: Detection) -> Detection:
    """A detection in an answer that the detector's model did not write."""
    return replace(detection, detector={**(detection.detector or {}), "same_model": False})


def characters(text: str) -> str:
    """`text` as UTF-8 can hold it: JSON, cut into chunks, may hold halves of surrogate pairs."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
