"""Answers that exist, read by the engine that serves: results, limits, faults that stay alone, threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from groundwire.detector import Detector
from groundwire.engines.base import Asked
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError, PromptTooLong
from groundwire.prompts import tokenize_response
from groundwire.server.jobs import EngineFailed, QueueFull, Stopping
from groundwire.server.vllm.fit import Own
from groundwire.server.vllm.scoring import THREADS, Scoring
from groundwire.source import Source
from groundwire.types import Detection, Example, Request
from tests.server.vllm.conftest import BAD, CONTEXT, GOOD, PASSAGE, QUESTION, TABLE, folded

MESSAGES = [{"role": "user", "content": f"{PASSAGE} {QUESTION}"}]


def example(text: str, name: str = "a") -> Example:
    return Example(name, MESSAGES, text)


def scoring(work: Callable[[Scoring], Awaitable[None]], detector: Detector | None = None, max_queue: int = 8) -> None:
    """Runs `work` with scoring of the public fake, or of a detector."""

    async def main() -> None:
        found = Scoring(detector or fake_detector(), max_queue=max_queue)
        found.start()
        try:
            await work(found)
        finally:
            await found.stop(5)

    asyncio.run(asyncio.wait_for(main(), 20))


@pytest.fixture
def connected(connect) -> Callable[..., None]:
    """`connected(work)`: as `scoring`, with the scripted engine's detector; `work` gets that too."""

    def run(work: Callable[[Scoring, Own], Awaitable[None]]) -> None:
        async def main() -> None:
            own = await connect()
            found = Scoring(own.detector, max_queue=8)
            await work(found, own)
            await found.stop(5)

        asyncio.run(asyncio.wait_for(main(), 20))

    return run


class Held:
    """Work that stays in its thread until it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def __call__(self) -> str:
        assert self.free.wait(10)
        return threading.current_thread().name


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


# -- what it finds


def test_answers_are_scored_by_the_rows_of_their_tokens(engine, connected):
    async def work(scores: Scoring, own: Own) -> None:
        for _ in ("cold", "warm"):  # all of it is in the prefix cache then
            found = await scores.score([example(GOOD), example(BAD), example(" ")])
            for text, detection in zip([GOOD, BAD], found, strict=False):
                tokens = tokenize_response(engine.tokenizer, text)
                readout = folded(own.detector.artifact.scorer, [token.id for token in tokens])
                wanted = own.detector.detect(readout, text, tokens, Source.of(example(text)))
                assert parts(detection) == parts(wanted)
            assert [one.reason for one in found] == [None, None, "empty_response"]
        assert found[0].score < 0.5 < found[1].score
        assert engine.followed == 0

    connected(work)


def parts(found: Detection) -> Any:
    """All but how long it took."""
    return found.score, found.contributions, found.spans, found.tokens, found.detector


def test_what_does_not_fit_is_not_read(engine, connected):
    async def work(scores: Scoring, own: Own) -> None:
        before = len(engine.requests)
        (found,) = await scores.score([Example("a", [{"role": "user", "content": "high " * CONTEXT}], GOOD)])
        assert found.reason == "prompt_too_long"
        with pytest.raises(PromptTooLong):
            own.detector.engine.replay([Asked([5] * (CONTEXT - 3), [[1], [1, 2, 3]])], own.detector.artifact.scorer)
        assert len(engine.requests) == before

    connected(work)


def test_the_engine_gives_rows_and_generates_nothing(engine, connected):
    async def work(scores: Scoring, own: Own) -> None:
        served = own.detector.engine
        rows = await scores.run(served.read, [5, 6, 7])
        assert rows.tolist() == TABLE[[5, 6, 7]].tolist()
        assert served.tokens_read == 3
        assert (served.context, served.hookpoint) == (CONTEXT - 1, own.detector.artifact.hookpoint)
        request = Request("r", MESSAGES)
        with pytest.raises(InputError, match="groundwire serve --engine vllm"):
            served.generate([request], own.detector.artifact.scorer)
        assert list(served.generate([], own.detector.artifact.scorer)) == []
        assert len(served.begin(own.detector.artifact.scorer)) == 0

    connected(work)


def test_what_a_read_that_failed_left_behind_is_forgotten(engine, connected):
    async def work(scores: Scoring, own: Own) -> None:
        plain, failures = engine.collective_rpc, [RuntimeError("lost")]

        async def once(*args: Any, **more: Any) -> Any:
            if failures:
                raise failures.pop()
            return await plain(*args, **more)

        engine.collective_rpc = once
        (found,) = await scores.score([example(GOOD)])
        assert (found.reason, found.detail) == ("capture_failed", "RuntimeError")
        await until(lambda: engine.followed == 0)
        (found,) = await scores.score([example(GOOD)])
        assert found.checked

    connected(work)


def test_rows_that_do_not_come_are_a_reason(engine, connected):
    async def work(scores: Scoring, own: Own) -> None:
        engine.worker.broken = True
        (found,) = await scores.score([example(GOOD)])
        assert found.reason == "capture_failed"
        assert "has no rows" in found.detail

    connected(work)


# -- limits


def test_so_many_may_wait_and_those_that_were_admitted_always():
    async def work(scores: Scoring) -> None:
        held = Held()
        under_way = asyncio.ensure_future(scores.run(held))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await scores.score([example(GOOD)])
        assert await scores.score([]) == []
        assert len(await scores.score([example(GOOD)], admitted=True)) == 1
        held.free.set()
        await under_way
        assert len(await scores.score([example(GOOD)])) == 1

    scoring(work, max_queue=1)


def test_it_says_how_busy_it_is():
    async def work(scores: Scoring) -> None:
        assert (scores.active, scores.waiting) == (0, 0)
        held = Held()
        under_way = [asyncio.ensure_future(scores.run(held)) for _ in range(THREADS + 2)]
        await asyncio.sleep(0)
        assert (scores.active, scores.waiting) == (THREADS, 2)
        held.free.set()
        names = await asyncio.gather(*under_way)
        assert all(name.startswith("groundwire") for name in names)
        assert (scores.active, scores.waiting) == (0, 0)

    scoring(work)


def test_when_it_stops_it_takes_no_more_and_what_is_under_way_is_finished():
    async def work(scores: Scoring) -> None:
        held = Held()
        under_way = asyncio.ensure_future(scores.run(held))
        stopping = asyncio.ensure_future(scores.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await scores.score([example(GOOD)])
        assert not stopping.done()
        held.free.set()
        await stopping
        assert (await under_way).startswith("groundwire")

    scoring(work)


# -- faults


def test_an_answer_that_fails_fails_alone(monkeypatch):
    detector = fake_detector()
    plain = detector.score_batch

    def score_batch(examples: Sequence[Example]) -> list[Detection]:
        if any("Zion" in one.response for one in examples):
            raise RuntimeError("Zion")
        return plain(examples)

    monkeypatch.setattr(detector, "score_batch", score_batch)

    async def work(scores: Scoring) -> None:
        found = await scores.score([example(GOOD), example(BAD), example(GOOD)])
        assert [(one.reason, one.detail) for one in found] == [
            (None, None),
            ("capture_failed", "RuntimeError"),
            (None, None),
        ]

    scoring(work, detector)


def test_work_that_fails_is_an_error_a_client_may_see():
    async def work(scores: Scoring) -> None:
        with pytest.raises(EngineFailed):
            await scores.run(lambda: 1 / 0)
        with pytest.raises(InputError, match="its own"):
            await scores.run(refuse)
        assert (scores.active, scores.waiting) == (0, 0)

    def refuse() -> None:
        raise InputError("its own")

    scoring(work)


# -- threads


def test_each_thread_has_a_tokenizer_of_its_own(connected):
    async def work(scores: Scoring, own: Own) -> None:
        together = threading.Barrier(THREADS)

        def tokenizers() -> Any:
            together.wait(10)
            first = own.detector.tokenizer
            assert own.detector.tokenizer is first
            return first

        found = await asyncio.gather(*(scores.run(tokenizers) for _ in range(THREADS)))
        assert len({id(one) for one in found}) == THREADS

    connected(work)


def test_what_still_waits_when_it_stops_is_told_so():
    async def work(one: Scoring) -> None:
        gate = threading.Event()
        busy = [asyncio.ensure_future(one.run(gate.wait)) for _ in range(THREADS)]
        waiting = asyncio.ensure_future(one.run(gate.wait))
        await asyncio.sleep(0.05)
        await one.stop(0.1)
        with pytest.raises(Stopping):
            await waiting
        gate.set()
        await asyncio.gather(*busy)
        with pytest.raises(Stopping):
            await one.score([example("x")], admitted=True)

    scoring(work)
