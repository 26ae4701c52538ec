"""The reader judges what another model wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from groundwire.conversation import found_passages
from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.passages import passages_of
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.errors import ApiError
from groundwire.server.judge import Judge, characters, foreign
from groundwire.server.shapes import Said
from groundwire.types import Detection, Example

MESSAGES = [{"role": "user", "content": "When did the bridge open?"}]
FOUND = found_passages(MESSAGES, passages_of(["The bridge opened in 1931."]))
NONE = found_passages(MESSAGES, [])


def judged(run: Callable[[Judge], Any], detector: Detector | None = None, **given: Any) -> Any:
    async def main() -> Any:
        loop = EngineLoop(detector or fake_detector())
        loop.start()
        try:
            return await run(Judge(loop, "r", given.get("found", [FOUND]), given.get("per_prompt", 3)))
        finally:
            await loop.stop(1)

    return asyncio.run(main())


def test_each_answer_has_its_detection_in_its_place():
    said = [
        Said(0, "The bridge opened in Tokyo."),
        Said(1, "", True),
        Said(2, "The bridge opened in 1931."),
        Said(3, "A"),
    ]
    found = judged(lambda judge: judge.detections(said), found=[FOUND, NONE])
    assert [d.reason for d in found] == [None, "tool_call", None, "no_passages"]
    plain = fake_detector().score_batch([Example("a", FOUND.messages, said[0].text, passages=FOUND.passages)])[0]
    assert (found[0].score, found[0].spans) == (plain.score, plain.spans)
    assert found[2].score < 0.5 < found[0].score
    assert [d.detector["same_model"] for d in found] == [False] * 4
    assert plain.detector["same_model"] is True


def test_an_engine_that_fails_is_a_reason(monkeypatch):
    detector = fake_detector()
    monkeypatch.setattr(detector, "score_batch", lambda _: 1 / 0)
    (found,) = judged(lambda judge: judge.detections([Said(0, "A")]), detector)
    assert (found.status, found.reason) == ("not_checked", "capture_failed")


def test_another_model_s_tokens_are_not_seen():
    async def run(judge: Judge) -> None:
        assert judge.running(0) is None
        assert judge.halted(0) is False
        assert (judge.source, judge.same_model) == ("gateway", False)

    judged(run)


def test_answers_of_the_detector_s_own_model_are_not_foreign():
    class OwnJudge(Judge):
        same_model = True

    async def run(judge: Judge) -> list[Detection]:
        own = OwnJudge(judge.loop, judge.name, judge.found, judge.per_prompt)
        said = [Said(0, "The bridge opened in Tokyo."), Said(1, "", True)]
        return [*await own.detections(said), own.failed("why"), own.broken_off()]

    assert [found.detector["same_model"] for found in judged(run)] == [True] * 4


def test_more_choices_than_were_asked_for_are_refused():
    async def run(judge: Judge) -> None:
        assert judge.asked(5) is NONE
        with pytest.raises(ApiError, match="more choices"):
            judge.asked(6)
        assert judge.broken_off().reason == "capture_failed"
        assert judge.failed("why").detail == "why"

    judged(run, found=[FOUND, NONE])


def test_halves_of_characters():
    assert characters("plain") == "plain"
    assert characters("a\ud83d\ude00é") == "a😀é"
    assert characters("a\ud83db") == "a\ufffdb"
    assert foreign(Detection("not_checked", "disabled")).detector == {"same_model": False}
