"""One request's answers: each choice is generated, checked and ruled upon by itself; their events come as one row.

    submit -> [Begun, Delta ..., Done] per choice, merged

A choice whose rules hold it back sends its text in one piece, once its verdict is known. An answer is ruled upon the
same way whether it is streamed or not: both are these events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from groundwire.errors import InputError, PromptTooLong
from groundwire.server.engine_loop import EngineLoop
from groundwire.server.errors import ApiError
from groundwire.server.events import Attempt, Begun, Delta, Done, Event, aligned, pieces
from groundwire.server.jobs import Stream
from groundwire.server.policies import FinishReason, Outcome, Rules, better, rule, try_again
from groundwire.types import Detection, Example, Reason, Request, Token, TokenLogprob, Verdict


@dataclass(frozen=True)
class Ask:
    """What a client asked for, whichever API it came through.

    requests: one per choice, in order. reasons: why a choice is not to be checked, None where it is. rules: None where
    checking is off. shrink: whether answers may be cut to what the context leaves.
    """

    id: str
    requests: Sequence[Request]
    reasons: Sequence[Reason | None]
    rules: Rules | None
    shrink: bool = False


@dataclass
class _Answer:
    """What the model has said of one choice so far."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    halted: bool = False
    detection: Detection | None = None


class Answers:
    """The answers to one request, queued at once; raises QueueFull where there is no room. Close it when done."""

    def __init__(self, loop: EngineLoop, ask: Ask) -> None:
        self._loop, self._ask = loop, ask
        self._streams = loop.submit(ask.requests, shrink=ask.shrink)

    async def joined(self) -> float:
        """Wait until the first choice is being generated; the seconds it waited. Raises what kept it from that."""
        await self._streams[0].joined()
        return self._streams[0].joined_after

    def close(self) -> None:
        """Drop what is left. Closing twice is fine."""
        for stream in self._streams:
            stream.close()

    async def events(self) -> AsyncGenerator[Event]:
        """All events, those of each choice in order. Raises what ended a choice; all others are dropped then."""
        queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._drain(i, queue)) for i in range(len(self._streams))]
        try:
            left = len(tasks)
            while left:
                event = await queue.get()
                if isinstance(event, Exception):
                    raise event
                if event is None:
                    left -= 1
                else:
                    yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.close()

    async def _drain(self, index: int, queue: asyncio.Queue[Event | Exception | None]) -> None:
        try:
            async with aclosing(self._choice(index)) as events:
                async for event in events:
                    queue.put_nowait(event)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    async def _choice(self, index: int) -> AsyncGenerator[Event]:
        rules, stream = self._ask.rules, self._streams[index]
        prompt_tokens = await stream.joined()
        yield Begun(index)
        answer, held = _Answer(), rules is not None and rules.held
        async with aclosing(self._generated(index, stream, answer)) as deltas:
            async for delta in deltas:
                if not held:
                    yield delta
        if rules is None:
            yield replace(_done(index, answer, None), prompt_tokens=prompt_tokens)
            return
        detection = await self._detection(index, answer)
        outcome = rule(rules, answer.text, answer.finish_reason, detection, halted=answer.halted)
        done = replace(_done(index, answer, outcome), prompt_tokens=prompt_tokens)
        if rules.policy == "regenerate" and outcome.verdict.flagged:
            done = await self._better(rules, done, detection)
        if held:
            yield Delta(index, done.text, done.logprobs)
        yield done

    async def _generated(self, index: int, stream: Stream, answer: _Answer) -> AsyncGenerator[Delta]:
        """The model's words as they come, kept in `answer` as well. Stops where the rules halt it."""
        rules = self._ask.rules
        async for progress in stream:
            step = progress.step
            if rules is not None and step.finish_reason is None and rules.halts(progress.running):
                stream.close()
                answer.halted = True
                return
            answer.text += step.text
            answer.tokens += step.tokens
            answer.logprobs += step.logprobs
            if step.text or step.logprobs:
                yield Delta(index, step.text, pieces(answer.text, step.tokens, step.logprobs), progress.running)
            if step.finish_reason is not None:
                answer.finish_reason, answer.detection = step.finish_reason, progress.detection

    async def _detection(self, index: int, answer: _Answer) -> Detection:
        """Of all that was said; an answer that was halted is replayed, for generation gave no detection."""
        reason = self._ask.reasons[index]
        if reason is not None:
            return self._loop.detector.not_checked(reason)
        detection = answer.detection or await self._replayed(self._ask.requests[index], answer.text)
        return replace(detection, tokens=aligned(detection.tokens, answer.tokens, answer.text))

    async def _replayed(self, request: Request, text: str) -> Detection:
        """Detection of a text that stands as an answer to `request`. A failure is a reason not to have checked."""
        example = Example(request.id, request.messages, text, passages=request.passages)
        try:
            return (await self._loop.score([example], admitted=True))[0]
        except ApiError as error:
            return self._loop.detector.not_checked("capture_failed", error.message)

    async def _better(self, rules: Rules, first: Done, detection: Detection) -> Done:
        """The better of a flagged answer and of a second attempt that was told what was wrong with it.

        The second is checked against the request's own messages: those of the attempt quote what was wrong, and would
        support it.
        """
        request = self._ask.requests[first.index]
        messages = try_again(request.messages, first.text, detection)
        again = replace(request, id=f"{request.id}-again", messages=messages, check=False)
        answer, prompt_tokens = _Answer(), 0
        try:
            (stream,) = self._loop.submit([again], admitted=True, shrink=True)
            try:
                prompt_tokens = await stream.joined()
                async with aclosing(self._generated(first.index, stream, answer)) as deltas:
                    async for _ in deltas:
                        pass
            finally:
                stream.close()
        except InputError as error:  # such as a chat template that wants roles to alternate
            reason: Reason = "prompt_too_long" if isinstance(error, PromptTooLong) else "invalid_input"
            found = self._loop.detector.not_checked(reason, str(error))
        except ApiError as error:
            found = self._loop.detector.not_checked("capture_failed", error.message)
        else:
            found = await self._replayed(request, answer.text)
            found = replace(found, tokens=aligned(found.tokens, answer.tokens, answer.text))
        second = _done(first.index, answer, rule(rules, answer.text, answer.finish_reason, found))
        kept = second if better(_verdict(first), _verdict(second)) else first
        attempts = tuple(Attempt(done.text, _verdict(done), done is kept) for done in (first, second))
        verdict = replace(_verdict(kept), action="regenerate")
        return replace(
            kept,
            verdict=verdict,
            attempts=attempts,
            prompt_tokens=first.prompt_tokens,
            more_prompt_tokens=prompt_tokens,
            completion_tokens=first.completion_tokens + second.completion_tokens,
        )


def _done(index: int, answer: _Answer, outcome: Outcome | None) -> Done:
    """An answer that is over; without `outcome`, as the model gave it."""
    own = outcome is None or outcome.own
    return Done(
        index,
        outcome.text if outcome else answer.text,
        outcome.finish_reason if outcome else answer.finish_reason,
        outcome.verdict if outcome else None,
        answer.text,
        pieces(answer.text, answer.tokens, answer.logprobs) if own else (),
        redactions=outcome.redactions if outcome else None,
        completion_tokens=len(answer.tokens),
    )


def _verdict(done: Done) -> Verdict:
    """The verdict of a choice that was checked."""
    if done.verdict is None:
        raise ValueError("a choice without rules has no verdict")
    return done.verdict
