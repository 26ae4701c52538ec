"""The guard in a Python program, over a stand-in detector: the answer's share of words that no passage has."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.guard import Guard, GuardedAnswer, decide
from groundwire.types import Detection, Example, Verdict

QUESTION, PASSAGES = "When did it open?", ["The bridge opened in 1889", {"id": "2", "text": "It is long"}]
FAITHFUL, UNFAITHFUL = "It opened in 1889", "Nobody knows"


class AbsentWords:
    """Stands in for Detector: score = share of the response's words that are absent from the prompt."""

    id, threshold = "absent-words", 0.5

    def __init__(self) -> None:
        self.seen: list[Example] = []

    def score(self, example: Example, *, passage_windows: bool) -> Detection:
        self.seen.append(example)
        words = example.response.split()
        if not words:
            return Detection("not_checked", "empty_response")
        prompt = example.messages[-1]["content"].split()
        return Detection("checked", score=sum(word not in prompt for word in words) / len(words))


class Broken(AbsentWords):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def score(self, example: Example, *, passage_windows: bool) -> Detection:
        raise self.error


@pytest.fixture
def detector() -> AbsentWords:
    return AbsentWords()


@pytest.fixture
def guard(detector: AbsentWords) -> Guard:
    return Guard(detector)


def broken(error: Exception) -> Guard:
    return Guard(Broken(error))


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def arriving(*chunks: str) -> AsyncIterator[str]:
    for chunk in chunks:
        yield chunk


def untyped(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method as users run it: without the type checks of the test run, which refuse bad arguments first."""
    return inspect.unwrap(method)


def answer(question: str, passages: list[Any], reply: str = UNFAITHFUL) -> str:
    """Answers."""
    return reply


# decide


@pytest.mark.parametrize(("score", "flagged"), [(0.2, False), (0.4, False), (0.41, True)])
def test_flagged_above_the_threshold_only(score: float, flagged: bool) -> None:
    detection = Detection("checked", score=score)
    assert decide(detection, 0.4) == Verdict(detection, threshold=0.4, flagged=flagged, action="annotate")


def test_what_was_not_checked_is_neither_flagged_nor_clean() -> None:
    verdict = decide(Detection("not_checked", "tool_call"), 0.4, action="block")
    assert (verdict.flagged, verdict.score, verdict.action) == (None, None, "block")


@pytest.mark.parametrize("threshold", [41.0, -0.1, float("nan")])
def test_a_threshold_is_a_probability(threshold: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        decide(Detection("checked", score=0.5), threshold)
    with pytest.raises(InputError, match="from 0 to 1"):
        Guard(threshold=threshold)


# check


def test_check_by_position_and_by_keyword(guard: Guard, detector: AbsentWords) -> None:
    first = guard.check(QUESTION, PASSAGES, FAITHFUL)
    second = guard.check(question=QUESTION, passages=PASSAGES, answer=UNFAITHFUL)
    assert (first.flagged, second.flagged, second.threshold) == (False, True, 0.5)
    (message,) = detector.seen[0].messages
    assert detector.seen[0].response == FAITHFUL
    assert all(text in message["content"] for text in (QUESTION, "The bridge opened in 1889", "It is long"))


def test_the_guards_threshold_comes_before_the_detectors(detector: AbsentWords) -> None:
    verdict = Guard(detector, threshold=1.0).check(QUESTION, PASSAGES, UNFAITHFUL)
    assert (verdict.flagged, verdict.threshold) == (False, 1.0)


@pytest.mark.parametrize("passages", [[], [""], "", [{"text": " \n"}]])
def test_without_passages_nothing_is_checked(guard: Guard, detector: AbsentWords, passages: Any) -> None:
    verdict = guard.check(QUESTION, passages, UNFAITHFUL)
    assert (verdict.status, verdict.detection.reason, verdict.flagged) == ("not_checked", "no_passages", None)
    assert not detector.seen


def test_arguments_of_another_type_are_refused(guard: Guard) -> None:
    for arguments in [(None, PASSAGES, "a"), (QUESTION, 3, "a"), (QUESTION, PASSAGES, {"content": "a"})]:
        with pytest.raises(InputError, match="of type builtins"):
            untyped(Guard.check)(guard, *arguments)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CaptureError("no rows"), "capture_failed"),
        (RuntimeError("no rows"), "capture_failed"),
        (PromptTooLong("no rows"), "prompt_too_long"),
        (InputError("no rows"), "invalid_input"),
    ],
)
def test_a_failure_while_scoring_is_a_verdict(error: Exception, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "groundwire"):
        verdict = broken(error).check(QUESTION, PASSAGES, FAITHFUL)
    assert (verdict.status, verdict.detection.reason, verdict.flagged) == ("not_checked", reason, None)
    assert verdict.detection.detail == f"{type(error).__name__}: no rows"
    assert "no rows" in caplog.text


def test_acheck_gives_what_check_gives(guard: Guard) -> None:
    assert asyncio.run(guard.acheck(QUESTION, PASSAGES, UNFAITHFUL)) == guard.check(QUESTION, PASSAGES, UNFAITHFUL)


def test_the_model_runs_one_answer_at_a_time() -> None:
    together = threading.Barrier(2)  # passed only if two calls are inside `score` at once

    class Meeting(AbsentWords):
        def score(self, example: Example, *, passage_windows: bool) -> Detection:
            together.wait(timeout=0.2)
            return Detection("checked", score=1.0)

    guard = Guard(Meeting())

    async def both() -> list[Verdict]:
        in_thread = asyncio.to_thread(guard.check, QUESTION, PASSAGES, FAITHFUL)
        return await asyncio.gather(in_thread, *(guard.acheck(QUESTION, PASSAGES, FAITHFUL) for _ in range(2)))

    assert [verdict.status for verdict in asyncio.run(both())] == ["not_checked"] * 3


# stream


def test_a_stream_passes_chunks_as_they_arrive_and_ends_with_the_verdict(guard: Guard, detector: AbsentWords) -> None:
    pulled: list[str] = []

    def chunks() -> Iterator[str]:
        for chunk in ("Nobody", " ", "knows"):
            pulled.append(chunk)
            yield chunk

    items = guard.stream(QUESTION, PASSAGES, chunks())
    assert next(items) == "Nobody"
    assert pulled == ["Nobody"]
    *rest, verdict = items
    assert rest == [" ", "knows"]
    assert verdict == guard.check(QUESTION, PASSAGES, UNFAITHFUL)


def test_astream_gives_what_stream_gives(guard: Guard) -> None:
    items = asyncio.run(collect(guard.astream(QUESTION, PASSAGES, arriving("Nobody", " knows"))))
    assert items == list(guard.stream(QUESTION, PASSAGES, ["Nobody", " knows"]))


@pytest.mark.parametrize(
    ("guard", "passages", "chunks", "reason"),
    [
        (broken(ValueError("no")), PASSAGES, ["a"], "capture_failed"),
        (Guard(AbsentWords()), 3, ["a"], "invalid_input"),
        (Guard(AbsentWords()), PASSAGES, [{"content": "a"}], "invalid_input"),
        (Guard(AbsentWords()), PASSAGES, [], "empty_response"),
    ],
)
def test_a_stream_is_never_lost_to_its_check(guard: Guard, passages: Any, chunks: list[Any], reason: str) -> None:
    *seen, verdict = untyped(Guard.stream)(guard, QUESTION, passages, chunks)
    assert seen == chunks
    assert isinstance(verdict, Verdict)
    assert (verdict.flagged, verdict.detection.reason) == (None, reason)


def test_an_error_of_the_source_propagates(guard: Guard) -> None:
    def chunks() -> Iterator[str]:
        yield "Nobody"
        raise OSError("connection lost")

    items = guard.stream(QUESTION, PASSAGES, chunks())
    assert next(items) == "Nobody"
    with pytest.raises(OSError, match="connection lost"):
        next(items)


# wrap


def test_a_wrapped_function_returns_a_string_with_its_verdict(guard: Guard) -> None:
    given = guard.wrap(answer)(QUESTION, PASSAGES)
    assert given == UNFAITHFUL
    assert isinstance(given, GuardedAnswer)
    assert given.verdict == guard.check(QUESTION, PASSAGES, UNFAITHFUL)
    assert type(given + "!") is str


def test_a_wrapped_function_keeps_its_name_and_arguments(guard: Guard) -> None:
    wrapped = guard.wrap(answer)
    assert (wrapped.__name__, wrapped.__doc__) == ("answer", "Answers.")
    assert wrapped(passages=PASSAGES, question=QUESTION, reply=FAITHFUL).verdict.flagged is False


def test_other_parameter_names_and_methods(guard: Guard) -> None:
    class Pipeline:
        @guard.wrap(question="query", passages="documents")
        def run(self, query: str, documents: list[Any]) -> str:
            return UNFAITHFUL

    assert Pipeline().run(QUESTION, PASSAGES).verdict.flagged is True


def test_a_function_without_passages_is_refused_when_decorated(guard: Guard) -> None:
    with pytest.raises(InputError, match="none called passages"):
        guard.wrap(lambda question: "")


def test_passages_that_can_be_read_once_serve_both(guard: Guard) -> None:
    @guard.wrap
    def last(question: str, passages: Any) -> str:
        return list(passages)[-1]

    assert last("What is long?", iter(["A", "B"])).verdict.flagged is False


def test_a_wrapped_coroutine(guard: Guard) -> None:
    @guard.wrap
    async def reply(question: str, passages: list[Any]) -> str:
        return UNFAITHFUL

    given = asyncio.run(reply(QUESTION, PASSAGES))
    assert (given, given.verdict.flagged) == (UNFAITHFUL, True)


def test_wrapped_generators(guard: Guard) -> None:
    @guard.wrap
    def chunks(question: str, passages: list[Any]) -> Iterator[str]:
        yield from ("Nobody", " knows")

    @guard.wrap
    async def achunks(question: str, passages: list[Any]) -> AsyncIterator[str]:
        for chunk in ("Nobody", " knows"):
            yield chunk

    *seen, verdict = chunks(QUESTION, PASSAGES)
    assert (seen, verdict.flagged) == (["Nobody", " knows"], True)
    assert asyncio.run(collect(achunks(QUESTION, PASSAGES))) == [*seen, verdict]


def test_a_wrapped_asynchronous_generator_is_closed_with_its_consumer(guard: Guard) -> None:
    closed = []

    @guard.wrap
    async def chunks(question: str, passages: list[Any]) -> AsyncIterator[str]:
        try:
            yield "Nobody"
            yield " knows"
        finally:
            closed.append(True)

    async def first_only() -> None:
        items = chunks(QUESTION, PASSAGES)
        await anext(items)
        await items.aclose()
        assert closed

    asyncio.run(first_only())


def test_the_functions_own_error_propagates(guard: Guard) -> None:
    @guard.wrap
    def reply(question: str, passages: list[Any]) -> str:
        raise KeyError("retriever")

    with pytest.raises(KeyError, match="retriever"):
        reply(QUESTION, PASSAGES)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_wrapped_answer_is_never_lost_to_its_check(kind: str) -> None:
    guard = broken(CaptureError("no rows"))

    async def areply(question: str, passages: list[Any]) -> str:
        return UNFAITHFUL

    given = (
        guard.wrap(answer)(QUESTION, PASSAGES)
        if kind == "plain"
        else asyncio.run(guard.wrap(areply)(QUESTION, PASSAGES))
    )
    assert given == UNFAITHFUL
    assert (given.verdict.flagged, given.verdict.detection.reason) == (None, "capture_failed")


def test_an_answer_that_is_no_string_is_refused(guard: Guard) -> None:
    with pytest.raises(InputError, match=r"message\.content"):
        guard.wrap(answer)(QUESTION, PASSAGES, {"content": "a"})


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_a_guarded_answer_keeps_its_verdict_when_copied(guard: Guard, clone: Callable[[Any], Any]) -> None:
    given = guard.wrap(answer)(QUESTION, PASSAGES)
    assert clone(given) == given
    assert clone(given).verdict == given.verdict


def test_a_marked_span_names_the_passage_it_should_be_compared_with() -> None:
    passages = [{"id": "a", "text": "It stands in Porto."}, {"id": "b", "text": "The tower was finished in 1889."}]
    (span,) = Guard(fake_detector()).check("When was it finished?", passages, "The tower was finished in 1901.").spans
    assert span.evidence is not None
    assert (span.text, span.evidence["passage_id"]) == ("1901", "b")
