"""Haystack: a component that checks answers against their documents.

from groundwire.integrations.haystack import GroundwireChecker
pipeline.add_component("checker", GroundwireChecker())
pipeline.connect("answer_builder.answers", "checker.answers")
pipeline.run(...)["checker"]["answers"][0].meta["hallucination"]
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from groundwire.errors import InputError, MissingExtra
from groundwire.guard import Guard
from groundwire.integrations.checking import averdict_on, verdict_on
from groundwire.types import Passage, Verdict

try:
    from haystack import component, default_to_dict
    from haystack.dataclasses import GeneratedAnswer
except ImportError as error:
    raise MissingExtra("haystack-ai", "haystack") from error


@component
class GroundwireChecker:
    """Writes the verdict on each answer of an AnswerBuilder into its `meta["hallucination"]`.

    threshold: probability above which an answer is flagged; None takes the detector's own. guard: another detector's;
    a component with one cannot be written to a file.
    """

    def __init__(self, threshold: float | None = None, guard: Guard | None = None) -> None:
        if threshold is not None and guard is not None:
            raise InputError("a threshold and a guard", expected="one of them", remedy="give the guard the threshold")
        self.threshold, self._given = threshold, guard is not None
        self.guard = Guard(threshold=threshold) if guard is None else guard

    def to_dict(self) -> dict[str, Any]:
        if self._given:
            remedy = "write the pipeline without the guard, and add it after loading"
            raise InputError(
                "a checker with a guard of its own", expected="one of the embedded detector", remedy=remedy
            )
        return default_to_dict(self, threshold=self.threshold)

    @component.output_types(answers=list[GeneratedAnswer], verdicts=list[dict[str, Any]])
    def run(self, answers: list[GeneratedAnswer]) -> dict[str, Any]:
        """The same answers with their verdicts, and the verdicts alone. The answers' documents are the passages."""
        return _outputs(answers, [verdict_on(self.guard, *_asked(answer)) for answer in answers])

    @component.output_types(answers=list[GeneratedAnswer], verdicts=list[dict[str, Any]])
    async def run_async(self, answers: list[GeneratedAnswer]) -> dict[str, Any]:
        """`run` off the event loop."""
        return _outputs(answers, [await averdict_on(self.guard, *_asked(answer)) for answer in answers])


def _asked(answer: GeneratedAnswer) -> tuple[str, list[Passage], str]:
    """Question, passages and answer. Documents without text, images for one, are no passages."""
    passages = [Passage(document.content, document.id) for document in answer.documents if document.content]
    return answer.query, passages, answer.data


def _outputs(answers: list[GeneratedAnswer], verdicts: list[Verdict]) -> dict[str, Any]:
    written = [verdict.to_dict() for verdict in verdicts]
    noted = [
        replace(answer, meta={**answer.meta, "hallucination": verdict})
        for answer, verdict in zip(answers, written, strict=True)
    ]
    return {"answers": noted, "verdicts": written}
