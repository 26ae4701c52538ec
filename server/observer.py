"""Observer mode: answers go out unchecked, and a share of them is checked when they are gone.

Only while the engine has nothing else to do, one answer at a time. What does not fit into the backlog is dropped and
counted. Which requests are checked depends on their ids alone, so that all replicas agree.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from groundwire.errors import InputError
from groundwire.guard import decide
from groundwire.server.errors import ApiError
from groundwire.server.events import Done, Event
from groundwire.server.judge import foreign
from groundwire.server.logs import note, request_id
from groundwire.server.options import Options
from groundwire.server.permission import rules_for
from groundwire.server.policies import Rules
from groundwire.server.recording import record
from groundwire.server.reply import Source
from groundwire.server.settings import Settings
from groundwire.server.verdict_log import Entry
from groundwire.types import Example, Reason

logger = logging.getLogger(__name__)

BACKLOG = 256  # answers that may wait
BACKLOG_CHARACTERS = 16 << 20  # and their characters, prompts included
PAUSE = 0.05  # seconds before each check, and between looks at whether the engine is idle


@dataclass(frozen=True)
class Observation:
    """An answer that has gone out, to be checked; `reason` says why it is not. `example.id` names it in the log.

    same_model: whether the detector's own model wrote it.
    """

    example: Example
    source: str
    model: str
    threshold: float
    reason: Reason | None = None
    same_model: bool = True

    @property
    def characters(self) -> int:
        return len(self.example.response) + sum(len(message["content"]) for message in self.example.messages)


@dataclass(frozen=True)
class Checks:
    """How the answers to a request are checked: by `rules` before they go out, against the threshold `observe` when
    they have gone, or, where both are None, not at all.

    observing: whether there are no rules because this server only observes.
    """

    rules: Rules | None
    observe: float | None = None
    observing: bool = False


class Observer:
    """Checks what it is offered, in the background of the app with this `state`."""

    def __init__(self, state: Any, share: float) -> None:
        self._state, self._share = state, share
        self._queue: asyncio.Queue[Observation] = asyncio.Queue(BACKLOG)
        self._characters = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; what waits is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            self._queue.get_nowait()
            self._state.metrics.observation_dropped()

    def watches(self, request: Request, options: Options) -> bool:
        """Whether the answers to a request are to be checked. Raises ApiError where they would have to be before they
        go out."""
        if options.policy not in (None, "annotate"):
            raise _refused("policy", "nothing can be done about an answer that has gone")
        if options.running:
            raise _refused("running", "there is no score while an answer is generated")
        chosen = self.chooses(request_id(request))
        note(request, observed=chosen)
        return chosen

    def chooses(self, name: str) -> bool:
        """Whether a request of this id is in the share."""
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < self._share * 2**64

    def offer(self, observation: Observation) -> None:
        """Have an answer checked at some time; returns at once."""
        if self._characters + observation.characters > BACKLOG_CHARACTERS or self._queue.full():
            self._state.metrics.observation_dropped()
            return
        self._characters += observation.characters
        self._queue.put_nowait(observation)

    async def _run(self) -> None:
        while True:
            observation = await self._queue.get()
            try:
                await self._idle()
                await self._check(observation)
            except Exception as error:
                if not isinstance(error, ApiError):
                    logger.exception("an answer could not be observed")
                self._state.metrics.observation_dropped()
            except asyncio.CancelledError:
                self._state.metrics.observation_dropped()
                raise
            finally:
                self._characters -= observation.characters

    async def _idle(self) -> None:
        loop = self._state.loop
        await asyncio.sleep(PAUSE)
        while loop.active or loop.waiting:
            await asyncio.sleep(PAUSE)

    async def _check(self, observation: Observation) -> None:
        loop, example = self._state.loop, observation.example
        if observation.reason is None:
            (found,) = await loop.score([example])
        else:
            found = loop.detector.not_checked(observation.reason)
        verdict = decide(found if observation.same_model else foreign(found), observation.threshold)
        about = (example.id, observation.source, verdict, observation.model)
        record(self._state, Entry(*about, messages=example.messages, response=example.response))


class Observed:
    """A source whose answers are handed to `offer` when they are gone."""

    def __init__(self, source: Source, offer: Callable[[Done], None]) -> None:
        self._source, self._offer = source, offer
        self._done: list[Done] = []

    async def joined(self) -> float:
        return await self._source.joined()

    async def events(self) -> AsyncGenerator[Event]:
        async with aclosing(self._source.events()) as events:
            async for event in events:
                if isinstance(event, Done):
                    self._done.append(event)
                yield event

    def close(self) -> None:
        self._source.close()
        done, self._done = self._done, []
        for answer in done:
            self._offer(answer)


def checks_for(options: Options, request: Request) -> Checks:
    """How the answers to a request with these options are checked. Raises ApiError on what is not allowed."""
    state = request.app.state
    rules = rules_for(options, state.settings, state.detector)
    if rules is None or state.observer is None:
        return Checks(rules)
    return Checks(None, rules.threshold if state.observer.watches(request, options) else None, observing=True)


def marked(response: Response) -> Response:
    """A response that says why its answers have no verdict."""
    if response.status_code == 200:
        response.headers["x-groundwire-status"] = "disabled"
        response.headers["x-groundwire-reason"] = "observer_mode"
    return response


def check_observer(settings: Settings) -> None:
    """Raise InputError on settings under which answers may not go out unchecked."""
    if settings.observe_share is None:
        return
    if settings.policy != "annotate" or settings.on_failure == "closed":
        raise InputError(
            f"observe_share with policy {settings.policy!r} and on_failure {settings.on_failure!r}",
            expected='policy "annotate" and on_failure "open": answers are checked after they have gone',
            remedy="leave out observe_share, or the others",
        )


def _refused(name: str, why: str) -> ApiError:
    message = f"hallucination.{name}: this server only observes, {why}: leave it out."
    return ApiError(400, message, param=f"hallucination.{name}", code="invalid_value")
