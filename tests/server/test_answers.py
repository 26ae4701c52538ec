from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from groundwire.detector import Detector
from groundwire.engines.fake import FakeGeneration, fake_detector
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import grounded_messages
from groundwire.server.answers import Answers, Ask
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.events import Begun, Delta, Done, Event
from groundwire.server.jobs import EngineFailed, Stopping
from groundwire.server.policies import POLICIES, Rules
from groundwire.types import Example, Passage, Reason, Request, Sampling

PASSAGES = (Passage("The bridge opened in 1931 and is 642 metres long.", "b"),)
QUESTION = "When did the bridge open?"
GOOD, BAD = "The bridge opened in 1931.", "The bridge opened in Tokyo in 1931."
AGAIN = "Answer again"
RULES = Rules("annotate", 0.5, 0.5, fail_closed=False, redaction="[x]", block_message="withheld")


def detector(first: str = BAD, second: str = GOOD) -> Detector:
    """Answers the question with `first`, and with `second` where it is asked again."""
    return fake_detector({AGAIN: second, QUESTION: first})


def asks(
    rules: Rules | None = RULES, *, n: int = 1, reason: Reason | None = None, question: str = QUESTION, **sampling: Any
) -> Ask:
    messages = grounded_messages(question, PASSAGES)
    requests = [
        Request(f"r-{i}", messages, Sampling(**sampling), passages=PASSAGES, check=rules is not None and reason is None)
        for i in range(n)
    ]
    return Ask("r", requests, [reason] * n, rules)


def events(ask: Ask, using: Detector | None = None) -> list[Event]:
    async def run() -> list[Event]:
        loop = EngineLoop(using or detector())
        loop.start()
        try:
            answers = Answers(loop, ask)
            await answers.joined()
            found = [event async for event in answers.events()]
            while loop.active or loop.waiting:
                await asyncio.sleep(0.002)
            return found
        finally:
            await loop.stop(0)

    return asyncio.run(asyncio.wait_for(run(), 20))


def under(policy: str, **given: Any) -> Rules:
    return replace(RULES, policy=policy, **given)  # type: ignore[arg-type]


def last(found: list[Event]) -> Done:
    done = found[-1]
    assert isinstance(done, Done)
    return done


def said(found: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in found if isinstance(event, Delta) and event.index == index)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("answer", [GOOD, BAD, "", "The passages do not say."])
def test_what_is_sent_in_pieces_is_what_is_said_to_be_done(policy, answer):
    found = events(asks(under(policy)), detector(answer))
    assert found[0] == Begun(0)
    assert [type(event) for event in found].count(Done) == 1
    assert said(found) == last(found).text
    if answer != BAD:
        assert last(found).text == answer


def test_an_answer_comes_as_it_is_generated_unless_it_is_held():
    assert sum(isinstance(event, Delta) for event in events(asks())) > 3
    for rules in (under("hold"), under("block"), under("redact"), under("annotate", fail_closed=True)):
        assert sum(isinstance(event, Delta) for event in events(asks(rules))) == 1


def test_the_verdict_is_that_of_the_detector():
    using = detector()
    done = last(events(asks(), using))
    (alone,) = using.score_batch([Example("a", grounded_messages(QUESTION, PASSAGES), BAD, passages=PASSAGES)])
    assert done.verdict is not None
    assert done.verdict.detection.score == alone.score
    assert done.verdict.spans == alone.spans
    assert (done.answer, done.text, done.finish_reason) == (BAD, BAD, "stop")


def test_every_choice_is_answered():
    found = events(asks(n=3))
    assert sorted(event.index for event in found if isinstance(event, Done)) == [0, 1, 2]
    assert {said(found, i) for i in range(3)} == {BAD}


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_scored_where_there_is_a_reason(policy):
    verdict = last(events(asks(under(policy), reason="no_passages"))).verdict
    assert verdict is not None
    assert (verdict.status, verdict.detection.reason, verdict.score) == ("not_checked", "no_passages", None)
    assert verdict.detection.detector is not None


@pytest.mark.parametrize(
    ("answer", "reason"), [("The passages do not say.", "abstained"), ("", "empty_response"), (" ", "empty_response")]
)
def test_an_answer_that_claims_nothing_has_a_reason_and_no_score(answer, reason):
    verdict = last(events(asks(), detector(answer))).verdict
    assert verdict is not None
    assert (verdict.detection.reason, verdict.score, verdict.flagged) == (reason, None, None)


def test_without_rules_there_is_no_verdict():
    done = last(events(asks(None)))
    assert (done.text, done.verdict, done.completion_tokens) == (BAD, None, 8)


def test_redacting():
    done = last(events(asks(under("redact"), logprobs=0)))
    assert done.text == "The bridge opened in [x] in 1931."
    assert done.redactions == ((21, 24),)
    assert done.answer == BAD
    assert done.logprobs == ()  # they would tell


def test_blocking():
    found = events(asks(under("block"), logprobs=0))
    assert said(found) == last(found).text == "withheld"
    assert (last(found).finish_reason, last(found).logprobs) == ("content_filter", ())


def test_halting_stops_before_more_is_said():
    found = events(asks(under("halt"), logprobs=0))
    done = last(found)
    assert said(found) == done.text == "The bridge opened in Tokyo"
    assert done.finish_reason == "content_filter"
    assert done.verdict is not None
    assert (done.verdict.action, done.verdict.flagged) == ("halt", True)
    assert [span.text for span in done.verdict.spans] == ["Tokyo"]
    assert len(done.logprobs) == done.completion_tokens == len(done.verdict.detection.tokens) == 5


def test_halting_has_a_threshold_of_its_own():
    done = last(events(asks(under("halt", halt_threshold=0.95))))
    assert (done.text, done.finish_reason) == (BAD, "stop")
    assert done.verdict is not None
    assert (done.verdict.action, done.verdict.flagged) == ("annotate", True)


def test_regenerating_keeps_the_better_and_tells_both():
    found = events(asks(under("regenerate")))
    done = last(found)
    assert said(found) == done.text == GOOD
    assert done.verdict is not None
    assert (done.verdict.action, done.verdict.flagged) == ("regenerate", False)
    assert [(a.text, a.verdict.flagged, a.kept) for a in done.attempts] == [(BAD, True, False), (GOOD, False, True)]
    assert done.completion_tokens == 8 + 6
    assert done.more_prompt_tokens > done.prompt_tokens


def test_regenerating_keeps_the_first_where_the_second_is_worse():
    done = last(events(asks(under("regenerate"), logprobs=0), detector(BAD, "")))
    assert done.text == BAD
    assert [a.kept for a in done.attempts] == [True, False]
    assert done.verdict is not None
    assert (done.verdict.flagged, done.verdict.action) == (True, "regenerate")
    assert len(done.logprobs) == 8


def test_a_second_attempt_is_checked_against_the_first_question_alone():
    """The critique quotes "Tokyo": were it part of the prompt, saying it again would be faithful."""
    done = last(events(asks(under("regenerate")), detector(BAD, "It opened in Tokyo.")))
    assert all(a.verdict.flagged for a in done.attempts)


def test_an_abstention_is_better_than_a_flagged_answer():
    done = last(events(asks(under("regenerate")), detector(BAD, "The passages do not say.")))
    assert done.text == "The passages do not say."


def test_a_second_attempt_that_does_not_fit_loses_nothing():
    question = f"{QUESTION} {'word ' * 1000}"
    long = f"{BAD} {'word ' * 975}".strip()
    done = last(events(asks(under("regenerate"), question=question, max_tokens=985), detector(long)))
    assert done.text == long
    assert [a.verdict.detection.reason for a in done.attempts] == [None, "prompt_too_long"]


def test_a_second_attempt_that_cannot_be_asked_for_loses_nothing(monkeypatch):
    add = FakeGeneration.add

    def strict(self: FakeGeneration, request: Request) -> int:
        if len(request.messages) > len(asks().requests[0].messages):
            raise InputError("two users in a row", expected="roles that alternate", remedy="merge them")
        return add(self, request)

    monkeypatch.setattr(FakeGeneration, "add", strict)
    done = last(events(asks(under("regenerate"))))
    assert done.text == BAD
    assert [a.verdict.detection.reason for a in done.attempts] == [None, "invalid_input"]


def test_an_answer_that_is_fine_is_asked_for_once():
    done = last(events(asks(under("regenerate")), detector(GOOD)))
    assert (done.text, done.attempts, done.completion_tokens) == (GOOD, (), 6)


def test_a_failed_check_is_delivered_or_withheld_as_the_operator_says():
    def broken() -> Detector:
        using = detector()
        using.detect = lambda *_: using.not_checked("capture_failed", "no rows")  # type: ignore[method-assign]
        return using

    opened = last(events(asks(), broken()))
    assert (opened.text, opened.finish_reason) == (BAD, "stop")
    found = events(asks(under("annotate", fail_closed=True)), broken())
    assert said(found) == last(found).text == "withheld"
    assert last(found).finish_reason == "content_filter"


def test_a_replay_that_fails_is_a_reason():
    using = detector()

    def fail(_: Any) -> Any:
        raise RuntimeError("broken")

    using.score_batch = fail  # type: ignore[method-assign]
    verdict = last(events(asks(under("halt")), using)).verdict
    assert verdict is not None
    assert (verdict.detection.reason, verdict.action) == ("capture_failed", "halt")


def test_a_prompt_that_does_not_fit_is_said_before_anything_else():
    with pytest.raises(PromptTooLong):
        events(asks(question="word " * 3000))


def test_one_choice_that_fails_ends_all():
    using = detector()
    plain = using.engine.stream  # type: ignore[attr-defined]

    def stream(request: Request, *args: Any) -> Any:
        for i, step in enumerate(plain(request, *args)):
            if request.id == "r-1" and i == 2:
                raise RuntimeError("broken")
            yield step

    using.engine.stream = stream  # type: ignore[attr-defined]
    with pytest.raises(EngineFailed):
        events(asks(n=2), using)


def test_leaving_early_drops_all_choices():
    async def run() -> None:
        before = asyncio.all_tasks()
        loop = EngineLoop(detector())
        loop.start()
        answers = Answers(loop, asks(n=8))
        found = answers.events()
        await anext(found)
        await found.aclose()
        while loop.active or loop.waiting:
            await asyncio.sleep(0.002)
        await loop.stop(0)
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_loop_that_stops_says_so():
    async def run() -> None:
        loop = EngineLoop(detector())
        loop.start()
        await loop.stop(0)
        with pytest.raises(Stopping):
            Answers(loop, asks())

    asyncio.run(run())
