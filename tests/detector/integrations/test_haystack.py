"""Haystack's own pipeline around the component."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from groundwire import Guard
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError

pytest.importorskip("haystack", reason="haystack-ai is not installed")

from haystack import Document, Pipeline
from haystack.components.builders import AnswerBuilder
from haystack.dataclasses import GeneratedAnswer

from groundwire.integrations.haystack import GroundwireChecker

LIGHTHOUSE = Document(id="tower", content="The lighthouse was built in 1889 by a builder from Lisbon.")
QUESTION = "When was the lighthouse built?"
GOOD, BAD = "The lighthouse was built in 1889.", "It opened in 1931."
ASKED = {
    "answers": {"query": QUESTION, "replies": [GOOD, BAD], "documents": [LIGHTHOUSE], "meta": [{"n": 1}, {"n": 2}]}
}


def wired(pipeline: Any) -> Any:
    pipeline.add_component("answers", AnswerBuilder())
    pipeline.add_component("checker", GroundwireChecker(guard=Guard(fake_detector())))
    pipeline.connect("answers.answers", "checker.answers")
    return pipeline


def test_in_a_pipeline_after_the_answer_builder() -> None:
    given = wired(Pipeline()).run(ASKED)["checker"]
    assert [verdict["flagged"] for verdict in given["verdicts"]] == [False, True]
    assert [answer.meta["hallucination"] for answer in given["answers"]] == given["verdicts"]
    assert [(answer.data, answer.meta["n"]) for answer in given["answers"]] == [(GOOD, 1), (BAD, 2)]


def test_run_asynchronously() -> None:
    given = asyncio.run(wired(Pipeline()).run_async(ASKED))["checker"]
    assert [verdict["flagged"] for verdict in given["verdicts"]] == [False, True]


def test_without_documents_nothing_is_checked_and_the_answer_is_not_changed() -> None:
    answer = GeneratedAnswer(data=BAD, query=QUESTION, documents=[Document(content=None)], meta={})
    given = GroundwireChecker(guard=Guard(fake_detector())).run([answer])
    assert given["verdicts"][0]["reason"] == "no_passages"
    assert answer.meta == {}


def test_it_is_written_to_and_read_from_a_file() -> None:
    pipeline = Pipeline()
    pipeline.add_component("checker", GroundwireChecker(threshold=0.4))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["groundwire.integrations.haystack"]).get_component(
        "checker"
    )
    assert again.guard.threshold == 0.4


def test_with_a_guard_of_its_own_it_is_not() -> None:
    with pytest.raises(InputError, match="a guard of its own"):
        GroundwireChecker(guard=Guard(fake_detector())).to_dict()
    with pytest.raises(InputError, match="one of them"):
        GroundwireChecker(threshold=0.4, guard=Guard(fake_detector()))
