"""Verdicts from the pass that wrote the answer; by replay where that has not all of it; and why there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from groundwire.conversation import found_passages
from groundwire.engines.vllm.wire import KEY
from groundwire.passages import passages_of
from groundwire.prompts import render
from groundwire.server.shapes import Said
from groundwire.server.vllm.follow import Follow, FollowingClient
from groundwire.server.vllm.judge import ADAPTER, OwnJudge
from groundwire.server.vllm.scoring import Scoring
from groundwire.server.vllm.visible import visible
from groundwire.source import Source
from groundwire.types import Detection
from tests.server.vllm.conftest import (
    BAD,
    CONTEXT,
    GOOD,
    PASSAGE,
    QUESTION,
    RequestOutputKind,
    SamplingParams,
    folded,
)

MESSAGES = [{"role": "user", "content": f"{PASSAGE} {QUESTION}"}]
FOUND = found_passages(MESSAGES, passages_of([PASSAGE]))
NONE = found_passages(MESSAGES, [])
CUT = "It was finished in Zion"


class Judged:
    """A request whose answers are judged."""

    def __init__(self, engine: Any, own: Any, scoring: Scoring, found: Any, options: dict[str, Any]) -> None:
        self.engine, self.own, self.scoring = engine, own, scoring
        scorer = own.detector.artifact.scorer
        self.follow = Follow(own.link, own.block, intercept=scorer.intercept, **options)
        self.judge = OwnJudge(scoring, "r", found, 3, self.follow, own.link, engine)

    async def answer(self, prompt: Any = None, lora: Any = None, **params: Any) -> None:
        """Have the engine answer, and hear all of it."""
        ids = render(self.engine.tokenizer, MESSAGES)
        prompt = prompt or {"type": "token", "prompt_token_ids": ids}
        more = {} if lora is None else {"lora_request": lora}
        with self.follow.current():
            outputs = FollowingClient(self.engine).generate(
                prompt, SamplingParams(**{"max_tokens": 64, **params}), "r", **more
            )
        async for _ in outputs:
            pass

    async def verdict(self, text: str | None = None, index: int = 0, calls: bool = False) -> Detection:
        """Of what a choice said, or of a text that the client sees of it."""
        if text is None:
            choice = self.follow.choice(index)
            assert choice is not None
            text = choice.text
        (found,) = await self.judge.detections([Said(index, text, calls)])
        return found

    def expected(self, text: str, ids: Any = None) -> Detection:
        """What the rows of these tokens say, of which the text is seen."""
        detector, tokenizer = self.own.detector, self.engine.tokenizer
        seen = visible(tokenizer, tokenizer(text)["input_ids"] if ids is None else ids, text)
        assert seen is not None
        readout = folded(detector.artifact.scorer, [token.id for token in seen.tokens])
        example = self.judge.example(Said(0, text))
        return detector.detect(readout, text, seen.tokens, Source.of(example))

    @property
    def replays(self) -> int:
        wishes = [(params.extra_args or {}).get(KEY, {}) for _, params, _ in self.engine.requests]
        return sum(wish.get("replay", False) for wish in wishes)


def parts(found: Detection) -> Any:
    """All but how long it took."""
    assert found.status == "checked", (found.reason, found.detail)
    return found.score, found.contributions, found.spans, found.tokens, found.detector


@pytest.fixture
def judged(engine, connect) -> Callable[..., None]:
    """`judged(work, found=..., **options of Follow)`."""

    def run(work: Callable[[Judged], Awaitable[None]], *, found: Any = (FOUND,), **options: Any) -> None:
        async def main() -> None:
            own = await connect()
            scoring = Scoring(own.detector, max_queue=8)
            one = Judged(engine, own, scoring, found, options)
            await work(one)
            one.follow.close()
            await scoring.stop(5)
            await own.link.take([])
            for _ in range(5):
                await asyncio.sleep(0)
            assert engine.followed == 0

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


# -- from its own pass


@pytest.mark.parametrize("kind", RequestOutputKind)
@pytest.mark.parametrize("ahead", [0, 2])
def test_answers_that_end_by_themselves(engine, judged, kind, ahead):
    engine.says(GOOD, BAD)
    engine.ahead = ahead

    async def work(one: Judged) -> None:
        await one.answer(n=2, output_kind=kind)
        found = await one.judge.detections([Said(0, GOOD), Said(1, BAD)])
        assert [parts(detection) for detection in found] == [parts(one.expected(text)) for text in (GOOD, BAD)]
        assert found[0].score < 0.5 < found[1].score
        assert [span.text for span in found[1].spans] == ["Zion"]
        assert len(engine.requests) == 1
        assert (one.judge.source, one.judge.same_model, one.judge.halted(1)) == ("engine", True, False)

    judged(work)


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_answer_that_ends_by_length(engine, judged, ahead):
    engine.says(engine.tokenizer(BAD)["input_ids"])
    engine.ahead = ahead

    async def work(one: Judged) -> None:
        await one.answer(max_tokens=7)
        assert parts(await one.verdict()) == parts(one.expected("It was finished in Z"))
        assert (len(engine.requests), one.replays) == (2, 0)  # its last token was read afterwards

    judged(work)


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_an_answer_that_ends_by_length_with_our_scheduler(engine, judged, kind):
    """Whatever the prompt is made of."""
    engine.says(engine.tokenizer(BAD)["input_ids"])
    engine.linger()

    async def work(one: Judged) -> None:
        await one.answer({"type": "multimodal", "prompt_token_ids": [5] * 9}, max_tokens=7, output_kind=kind)
        assert parts(await one.verdict()) == parts(one.expected("It was finished in Z"))
        assert (len(engine.requests), one.replays) == (1, 0)

    judged(work)


@pytest.mark.parametrize("full", [False, True])
def test_a_last_token_that_cannot_be_read_is_left_out(engine, judged, full):
    """Where the context is full, or the prompt is more than tokens."""
    engine.says(engine.tokenizer(GOOD)["input_ids"])

    async def work(one: Judged) -> None:
        kind, length = ("token", CONTEXT - 4) if full else ("multimodal", 20)
        await one.answer({"type": kind, "prompt_token_ids": [5] * length}, max_tokens=4)
        found = await one.verdict()
        ids = engine.tokenizer("It was finished")["input_ids"]
        assert len(ids) == 4
        readout = folded(one.own.detector.artifact.scorer, ids[:3])
        assert [token.token for token in found.tokens] == ["It", " was", " finis"]
        assert [c.contribution for c in found.contributions if c.term.kind == "latent"] == sorted(
            (value for value in readout.contributions.tolist() if value), key=lambda value: -abs(value)
        )
        assert one.replays == 0

    judged(work)


@pytest.mark.parametrize("stop", ["in 18", " in 1889 and", "n"])
@pytest.mark.parametrize("ahead", [0, 2])
def test_an_answer_that_a_stop_string_ended(engine, judged, stop, ahead):
    engine.says("It was finished in 1889 and opened in 1890.")
    engine.ahead = ahead

    async def work(one: Judged) -> None:
        await one.answer(stop=stop)
        choice = one.follow.choice(0)
        assert parts(await one.verdict()) == parts(one.expected(choice.text, choice.ids))
        assert one.replays == 0

    judged(work)


@pytest.mark.parametrize("kind", RequestOutputKind)
def test_an_answer_that_was_halted(engine, judged, kind):
    engine.says(BAD, GOOD)

    async def work(one: Judged) -> None:
        await one.answer(n=2, output_kind=kind)
        assert [one.judge.halted(i) for i in range(3)] == [True, False, False]
        assert parts(await one.verdict(CUT)) == parts(one.expected(CUT))
        assert parts(await one.verdict(GOOD, 1)) == parts(one.expected(GOOD))
        assert one.replays == 0
        assert one.judge.running(1) is not None

    judged(work, halts=lambda score: score > 0.5)


def test_an_answer_that_was_halted_late_is_replayed(engine, judged):
    engine.says(BAD)
    engine.ahead = 3

    async def work(one: Judged) -> None:
        await one.answer()
        text = one.follow.choice(0).text
        assert len(text) < len(CUT)
        assert parts(await one.verdict()) == parts(one.expected(text))
        assert one.replays == 1

    judged(work, halts=lambda score: score > 0.5)


@pytest.mark.parametrize("by_length", [False, True])
def test_an_answer_after_reasoning(engine, judged, by_length):
    thought = "Zion or Lisbon? The passages say 1889.</think>\n\n"
    engine.says(engine.tokenizer(thought + GOOD)["input_ids"] if by_length else thought + GOOD)

    async def work(one: Judged) -> None:
        await one.answer()
        assert parts(await one.verdict(GOOD)) == parts(one.expected(GOOD))
        assert one.replays == 0

    judged(work, late=True)


# -- by replay


def test_rows_that_were_lost_are_read_again(engine, judged):
    async def work(one: Judged) -> None:
        engine.worker.broken = True
        await one.answer()
        engine.worker.broken = False
        assert parts(await one.verdict()) == parts(one.expected(GOOD))
        assert one.replays > 0

    judged(work)


@pytest.mark.parametrize("text", ["It was finished in Lisbon.", f"{GOOD} It is high."])
def test_a_text_that_is_not_the_tokens_is_read(engine, judged, text):
    async def work(one: Judged) -> None:
        await one.answer()
        assert parts(await one.verdict(text)) == parts(one.expected(text))
        assert one.replays == 1

    judged(work)


def test_a_second_attempt_is_read(engine, judged):
    async def work(one: Judged) -> None:
        await one.answer()
        one.follow.close()
        assert parts(await one.verdict(BAD)) == parts(one.expected(BAD))
        assert (one.replays, one.judge.running(0), one.judge.halted(0)) == (1, None, False)

    judged(work)


# -- not checked


def test_what_an_adapter_wrote_is_not_the_detector_s_to_judge(engine, judged):
    async def work(one: Judged) -> None:
        await one.answer(lora=object())
        found = await one.verdict()
        assert (found.reason, found.detail) == ("model_mismatch", ADAPTER)

    judged(work)


def test_what_says_nothing_or_has_nothing_to_stay_with(engine, judged):
    async def work(one: Judged) -> None:
        await one.answer(n=3)
        said = [Said(0, GOOD, calls=True), Said(1, " \n"), Said(3, GOOD)]
        found = await one.judge.detections(said)
        assert [detection.reason for detection in found] == ["tool_call", "empty_response", "no_passages"]

    judged(work, found=(FOUND, NONE))


def test_whatever_fails_is_a_reason(engine, judged):
    async def broken(*args: Any, **more: Any) -> Any:
        raise RuntimeError("dead")

    async def work(one: Judged) -> None:
        await one.answer()
        plain = engine.collective_rpc
        engine.collective_rpc = broken
        found = await one.verdict()
        assert (found.reason, found.detail) == ("capture_failed", "RuntimeError")
        engine.collective_rpc = plain
        one.follow.close()
        await one.scoring.stop(1)
        found = await one.verdict(GOOD)
        assert found.reason == "capture_failed"
        assert "shutting down" in (found.detail or "")

    judged(work)


def test_answers_are_judged_together(engine, judged):
    engine.says(GOOD, BAD, "Nobody knows.")

    async def work(one: Judged) -> None:
        await one.answer(n=3)
        said = [Said(2, "Nobody knows."), Said(0, GOOD), Said(1, BAD)]
        found = await one.judge.detections(said)
        assert [parts(detection)[0] for detection in found] == [one.expected(each.text).score for each in said]

    judged(work)
