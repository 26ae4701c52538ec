"""The worker as vLLM's front reaches it: one call at a time, with all that is wanted of it by then.

A call waits until the engine is between two steps. What is asked for while one is under way goes with the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from groundwire.engines.vllm.engine import first_of
from groundwire.engines.vllm.wire import Take
from groundwire.errors import CaptureError

logger = logging.getLogger(__name__)

ALIVE = 1.0  # seconds between looks at whether the engine is there


@dataclass(frozen=True)
class About:
    """What the worker says of itself; see `Following.groundwire_begin`."""

    version: str
    digest: str
    hookpoint: str
    tap: str
    follows: bool
    running: str | None
    block: int


class Link:
    """Calls the worker through vLLM's engine client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._takes: list[tuple[Take, asyncio.Future[bytes | None]]] = []
        self._drops: list[str] = []
        self._calling: asyncio.Task[None] | None = None

    async def about(self) -> About:
        """The worker that follows. Raises CaptureError where none does."""
        found = first_of(await self._client.collective_rpc("groundwire_begin"))
        if found is None:
            raise CaptureError("no worker of vLLM's follows requests", expected="one", remedy="see vLLM's log")
        return About(**found)

    async def _answer(self, method: str, args: tuple[Any, ...]) -> Any:
        """What the workers answer. vLLM never answers a call to an engine that has died. Raises CaptureError then."""
        call = asyncio.ensure_future(self._client.collective_rpc(method, args=args))
        try:
            while not (await asyncio.wait({call}, timeout=ALIVE))[0]:
                if getattr(self._client, "errored", False):
                    raise CaptureError("vLLM's engine has ended", expected="one that runs", remedy="see vLLM's log")
            return call.result()
        finally:
            call.cancel()

    async def stats(self) -> dict[str, Any]:
        """See `Following.groundwire_stats`."""
        return first_of(await self._client.collective_rpc("groundwire_stats")) or {}

    async def take(self, takes: Sequence[Take]) -> list[bytes | None]:
        """What the worker found of answers that are over; see `Slots.take`. Raises what the call raises."""
        loop = asyncio.get_running_loop()
        waiting = [(take, loop.create_future()) for take in takes]
        self._takes += waiting
        self._call()
        return await asyncio.gather(*(future for _, future in waiting))

    def drop(self, keys: Sequence[str]) -> None:
        """Have the worker forget requests, at its next call."""
        if keys:
            self._drops += keys
            self._call()

    def _call(self) -> None:
        with suppress(RuntimeError):  # no event loop: nothing runs any more
            loop = asyncio.get_running_loop()
            if self._calling is None or self._calling.done():
                self._calling = loop.create_task(self._calls())

    async def _calls(self) -> None:
        while self._takes or self._drops:
            takes, self._takes = self._takes, []
            drops, self._drops = self._drops, []
            try:
                args = ([asdict(take) for take, _ in takes], drops)
                answer = first_of(await self._answer("groundwire_take", args))
                found = list(zip(takes, answer or [None] * len(takes), strict=True))
            except Exception as error:
                if not takes:
                    logger.warning("requests could not be forgotten: %s", error)
                for _, future in takes:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), data in found:
                if not future.done():
                    future.set_result(data)
