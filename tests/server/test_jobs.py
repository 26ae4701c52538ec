from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from groundwire.answering import Progress
from groundwire.server.jobs import EngineFailed, QueueFull, Scoring, Stopping, Stream
from groundwire.types import Detection, Example, Request, Step

REQUEST = Request("r", [{"role": "user", "content": "hello"}])
EXAMPLE = Example("e", REQUEST.messages, "hello")
STEP = Step("a", (), torch.zeros(0, 2))


def test_errors_tell_a_client_what_to_do():
    assert (QueueFull(7).status_code, QueueFull(7).headers) == (429, {"retry-after": "7"})
    assert Stopping().status_code == 503
    assert EngineFailed().status_code == 500


def test_a_stream_gives_its_prompt_then_its_steps():
    async def run() -> None:
        closed: list[Stream] = []
        stream = Stream(REQUEST, closed.append, shrink=False)
        for event in (5, Progress("r", STEP), Progress("r", replace(STEP, finish_reason="stop"))):
            stream.put(event)
        assert await stream.joined() == 5
        assert await stream.joined() == 5
        assert [p.step.finish_reason async for p in stream] == [None, "stop"]
        assert [p async for p in stream] == []
        stream.close()
        assert closed == [stream]

    asyncio.run(run())


@pytest.mark.parametrize("before", [[], [5], [5, Progress("r", STEP)]])
def test_an_error_ends_a_stream_wherever_it_comes(before):
    async def run() -> None:
        stream = Stream(REQUEST, lambda _: None, shrink=False)
        for event in [*before, Stopping()]:
            stream.put(event)
        with pytest.raises(Stopping):
            _ = [p async for p in stream]

    asyncio.run(run())


def test_scoring_takes_answers_to_one_prompt_at_a_time():
    async def run() -> None:
        other = replace(EXAMPLE, messages=[{"role": "user", "content": "another"}])
        job = Scoring([EXAMPLE, EXAMPLE, other], asyncio.get_running_loop().create_future())
        assert list(job.next(8)) == [EXAMPLE, EXAMPLE]
        job.found += [Detection("not_checked", "abstained")] * 2
        assert list(job.next(8)) == [other]

    asyncio.run(run())


def test_scoring_takes_a_few_at_a_time_and_forgets_who_left():
    async def run() -> None:
        job = Scoring([EXAMPLE] * 3, asyncio.get_running_loop().create_future())
        assert len(job.next(2)) == 2
        job.found += [Detection("not_checked", "abstained")] * 2
        assert len(job.next(2)) == 1
        job.result.cancel()
        job.put(job.found)
        assert job.result.cancelled()

    asyncio.run(run())
