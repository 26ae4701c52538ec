from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from groundwire.detector import Detector
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError, PromptTooLong
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.errors import ApiError
from groundwire.server.jobs import EngineFailed, QueueFull, Stopping
from groundwire.types import Example, Request, Sampling, Step

ANSWER = "The bridge opened in 1931 and is long"


def request(name: str, content: str = "open?", **sampling: Any) -> Request:
    return Request(name, [{"role": "user", "content": content}], Sampling(**sampling))


def example(name: str, response: str = ANSWER) -> Example:
    return Example(name, [{"role": "user", "content": "The bridge opened in 1931."}], response)


def paced(seconds: float = 0.01, answer: str = ANSWER) -> Detector:
    """A fake detector that takes its time over every word."""
    detector = fake_detector({"open?": answer})
    plain: Callable[..., Iterator[Step]] = detector.engine.stream  # type: ignore[attr-defined]

    def stream(*args: Any) -> Iterator[Step]:
        for step in plain(*args):
            time.sleep(seconds)
            yield step

    detector.engine.stream = stream  # type: ignore[attr-defined]
    return detector


def running(detector: Detector, work: Callable[[EngineLoop], Awaitable[None]], **limits: int) -> None:
    """Run `work` against a started loop; it must leave nothing behind."""

    async def run() -> None:
        loop = EngineLoop(detector, **limits)
        loop.start()
        try:
            await asyncio.wait_for(work(loop), 30)
            await settled(loop)
        finally:
            await loop.stop(0)
        assert not loop.alive

    threads = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() <= threads


async def settled(loop: EngineLoop) -> None:
    deadline = time.monotonic() + 30
    while loop.active or loop.waiting:
        assert time.monotonic() < deadline, f"{loop.active} active and {loop.waiting} waiting were left"
        await asyncio.sleep(0.005)


async def text(loop: EngineLoop, asked: Request) -> str:
    return "".join([p.step.text async for p in loop.generate(asked)])


def test_an_answer_comes_in_steps_with_its_detection():
    async def work(loop: EngineLoop) -> None:
        progress = [p async for p in loop.generate(request("a"))]
        assert "".join(p.step.text for p in progress) == ANSWER
        assert [p.detection is not None for p in progress] == [False] * (len(progress) - 1) + [True]

    running(fake_detector({"open?": ANSWER}), work)


def test_answers_decode_together_and_each_gets_its_own():
    async def work(loop: EngineLoop) -> None:
        order: list[int] = []

        async def follow(i: int) -> str:
            found = []
            async for progress in loop.generate(request(str(i), f"number{i} is what I say")):
                order.append(i)
                found.append(progress.step.text)
            return "".join(found)

        assert await asyncio.gather(*map(follow, range(12))) == [f"number{i} is what I say" for i in range(12)]
        assert sorted(order[:8]) == [0, 0, 1, 1, 2, 2, 3, 3]  # step by step, not one after the other

    running(paced(0.002), work, max_batch=4)


def test_no_more_than_the_batch_are_active():
    async def work(loop: EngineLoop) -> None:
        streams = loop.submit([request(str(i)) for i in range(5)])
        await streams[1].joined()
        assert (loop.active, loop.waiting) == (2, 3)
        for stream in streams:
            stream.close()

    running(paced(), work, max_batch=2)


def test_a_full_queue_is_said_at_once_with_a_time_to_retry():
    async def work(loop: EngineLoop) -> None:
        streams = loop.submit([request(str(i)) for i in range(3)])
        with pytest.raises(QueueFull) as full:
            loop.submit([request("more")])
        assert 1 <= full.value.retry_after <= 60
        (admitted,) = loop.submit([request("second attempt")], admitted=True)
        streams[0].close()
        streams[1].close()
        await admitted.joined()
        for stream in [*streams, admitted]:
            stream.close()

    running(paced(), work, max_batch=1, max_queue=2)


def test_several_are_queued_all_or_none():
    async def work(loop: EngineLoop) -> None:
        streams = loop.submit([request("a"), request("b")])
        with pytest.raises(QueueFull):
            loop.submit([request("c"), request("d")])
        assert loop.waiting + loop.active == 2
        with pytest.raises(ApiError, match="at most 3 fit"):
            loop.submit([request(str(i)) for i in range(4)])
        for stream in streams:
            stream.close()

    running(paced(), work, max_batch=1, max_queue=2)


def test_closing_the_iterator_drops_the_request():
    async def work(loop: EngineLoop) -> None:
        async with aclosing(loop.generate(request("a"))) as progress:
            async for _ in progress:
                break
        await settled(loop)

    running(paced(0.05), work)


def test_cancelling_drops_what_waits_and_what_runs():
    async def work(loop: EngineLoop) -> None:
        tasks = [asyncio.create_task(text(loop, request(str(i)))) for i in range(20)]
        await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(item, asyncio.CancelledError) for item in found)
        await settled(loop)

    running(paced(), work, max_batch=4)


def test_what_cannot_be_used_ends_its_own_request_only():
    async def work(loop: EngineLoop) -> None:
        good = asyncio.create_task(text(loop, request("good")))
        with pytest.raises(PromptTooLong):
            await text(loop, request("long", "word " * 3000))
        with pytest.raises(PromptTooLong):
            await text(loop, request("many", max_tokens=10**12))
        assert await good == ANSWER

    running(paced(), work)


def test_an_answer_may_be_cut_to_what_the_context_leaves():
    async def work(loop: EngineLoop) -> None:
        content = "word " * 2030 + "open?"
        (stream,) = loop.submit([request("a", content)], shrink=True)
        left = 2048 - await stream.joined()
        progress = [p async for p in stream]
        assert progress[-1].step.finish_reason == "length"
        assert sum(len(p.step.tokens) for p in progress) == left
        with pytest.raises(PromptTooLong):
            await loop.submit([request("b", "word " * 2100)], shrink=True)[0].joined()

    running(fake_detector({"open?": "yes " * 300}), work)


def test_a_step_that_fails_ends_the_answers_under_way_and_nothing_else(caplog):
    detector = fake_detector({"open?": ANSWER})
    plain, broken = detector.engine.stream, threading.Event()  # type: ignore[attr-defined]

    def stream(asked: Request, *args: Any) -> Iterator[Step]:
        for step in plain(asked, *args):
            if asked.id == "bad" and step.text == " 1931":
                broken.set()
                raise RuntimeError("out of memory")
            yield step

    detector.engine.stream = stream  # type: ignore[attr-defined]

    async def work(loop: EngineLoop) -> None:
        found = await asyncio.gather(text(loop, request("bad")), text(loop, request("beside")), return_exceptions=True)
        assert [type(item) for item in found] == [EngineFailed, EngineFailed]
        assert broken.is_set()
        assert loop.alive
        assert await text(loop, request("after")) == ANSWER

    running(detector, work)
    assert "out of memory" in caplog.text


def test_an_engine_that_cannot_begin_afresh_keeps_nobody_waiting(caplog):
    detector = fake_detector({"open?": ANSWER})
    first = detector.engine.begin(detector.artifact.scorer)
    begun = [first]

    def fail() -> Any:
        raise RuntimeError("out of memory")

    detector.engine.begin = lambda _: begun.pop() if begun else fail()  # type: ignore[method-assign]
    first.step = fail  # type: ignore[method-assign]

    async def work(loop: EngineLoop) -> None:
        waiting = [text(loop, request(name)) for name in "abc"]
        found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
        assert [type(item) for item in found] == [EngineFailed] * 3
        assert not loop.alive
        with pytest.raises(EngineFailed):
            await text(loop, request("late"))
        with pytest.raises(EngineFailed):
            await loop.score([example("late")])

    running(detector, work, max_batch=1)
    assert "the engine has ended" in caplog.messages


def test_scores_come_in_order_and_between_steps():
    async def work(loop: EngineLoop) -> None:
        stream = asyncio.create_task(text(loop, request("a")))
        await asyncio.sleep(0.02)
        rows = [example(str(i), f"The bridge opened{' in Tokyo' if i % 2 else ''}") for i in range(70)]
        found = await loop.score(rows)
        assert [d.score is not None and d.score > 0.5 for d in found] == [bool(i % 2) for i in range(70)]
        assert await stream == ANSWER
        assert await loop.score([]) == []

    running(paced(), work)


def test_streams_get_their_half_beside_a_long_job_of_scoring():
    detector = paced(0.01)
    plain = detector.score_batch
    turns: list[str] = []

    def slow(examples: Sequence[Example]) -> Any:
        turns.append("score")
        time.sleep(0.04)
        return plain(examples)

    detector.score_batch = slow  # type: ignore[method-assign]

    async def work(loop: EngineLoop) -> None:
        large = asyncio.create_task(loop.score([example(str(i)) for i in range(8 * 30)]))
        async for _ in loop.generate(request("a")):
            turns.append("step")
        scored = turns.count("score")
        assert 1 <= scored <= 6  # nine steps of 10 ms pay for two or three turns of 40 ms
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)

    running(detector, work)


def test_scores_are_those_of_the_detector():
    detector = fake_detector()

    async def work(loop: EngineLoop) -> None:
        examples = [example("a", "The bridge opened"), example("b", "In Tokyo"), example("c", "")]
        found = await loop.score(examples)
        alone = detector.score_batch(examples)
        assert [(d.status, d.reason, d.score, d.spans) for d in found] == [
            (d.status, d.reason, d.score, d.spans) for d in alone
        ]

    running(detector, work)


def test_a_small_job_gets_through_beside_a_large_one():
    detector = fake_detector()
    plain = detector.score_batch

    def slow(examples: Sequence[Example]) -> Any:
        time.sleep(0.02)
        return plain(examples)

    detector.score_batch = slow  # type: ignore[method-assign]

    async def work(loop: EngineLoop) -> None:
        large = asyncio.create_task(loop.score([example(str(i)) for i in range(32 * 40)]))
        await asyncio.sleep(0.05)
        await loop.score([example("small")])
        assert not large.done()
        large.cancel()
        await asyncio.gather(large, return_exceptions=True)

    running(detector, work)


def test_an_answer_whose_scoring_fails_says_so_and_keeps_no_other_from_its_score():
    detector = fake_detector()
    plain = detector.score_batch

    def fail(examples: Any) -> Any:
        if any(one.id == "bad" for one in examples):
            raise RuntimeError("broken")
        return plain(examples)

    async def work(loop: EngineLoop) -> None:
        detector.score_batch = fail  # type: ignore[method-assign]
        found = await loop.score([example("a"), example("bad"), example("b")])
        assert [one.reason for one in found] == [None, "capture_failed", None]
        assert found[1].detail == "RuntimeError"
        assert (await loop.score([example("a")]))[0].checked

    running(detector, work)


def test_jobs_of_scoring_are_bounded_too():
    detector = paced()
    hold = threading.Event()
    plain = detector.score_batch

    def wait(examples: Sequence[Example]) -> Any:
        hold.wait(10)
        return plain(examples)

    detector.score_batch = wait  # type: ignore[method-assign]

    async def work(loop: EngineLoop) -> None:
        jobs = [asyncio.create_task(loop.score([example("a")]))]
        await asyncio.sleep(0.05)
        jobs.append(asyncio.create_task(loop.score([example("b")])))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await loop.score([example("c")])
        hold.set()
        await asyncio.gather(*jobs)

    running(detector, work, max_queue=1)


def test_stopping_finishes_what_is_under_way():
    async def run() -> None:
        loop = EngineLoop(paced())
        loop.start()
        under_way = asyncio.create_task(text(loop, request("a")))
        await asyncio.sleep(0.03)
        stopping = asyncio.create_task(loop.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await text(loop, request("late"))
        with pytest.raises(Stopping):
            await loop.score([example("late")])
        await stopping
        assert await under_way == ANSWER

    asyncio.run(run())


def test_stopping_ends_the_rest_with_an_error():
    async def run() -> None:
        loop = EngineLoop(paced(0.2), max_batch=1)
        loop.start()
        left = [asyncio.create_task(text(loop, request(str(i)))) for i in range(3)]
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await loop.stop(0.1)
        found = await asyncio.gather(*left, return_exceptions=True)
        assert [type(item) for item in found] == [Stopping] * 3
        assert time.monotonic() - start < 2
        assert not loop.alive

    asyncio.run(run())


def test_nothing_is_taken_before_the_start():
    with pytest.raises(Stopping):
        EngineLoop(fake_detector()).submit([request("a")])


def test_an_id_is_free_again_once_its_answer_is_over():
    async def work(loop: EngineLoop) -> None:
        (stream,) = loop.submit([request("a")])
        await stream.joined()
        for ids in (["a"], ["b", "b"]):
            with pytest.raises(InputError, match="an id that is in use"):
                loop.submit([request(name) for name in ids])
        assert "".join([p.step.text async for p in stream]) == ANSWER
        assert await text(loop, request("a")) == ANSWER

    running(paced(), work)
