"""Answers that exist, scored through vLLM: the same work as the engine's thread does, for many requests at once."""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from groundwire.detector import Detector
from groundwire.engines.reader import Identity
from groundwire.engines.vllm.engine import sampling, tokens_of
from groundwire.engines.vllm.replay import Prompt, ReplayEngine
from groundwire.errors import GroundwireError
from groundwire.server.jobs import EngineFailed, QueueFull, Stopping, scored
from groundwire.server.vllm.link import Link
from groundwire.types import Detection, Example

logger = logging.getLogger(__name__)

THREADS = 4


class ServedEngine(ReplayEngine):
    """vLLM's engine as it serves. See `ReplayEngine`; its methods are called from threads, never in the event loop.

    Made in the event loop.
    """

    def __init__(self, client: Any, link: Link, identity: Identity, hookpoint: str) -> None:
        backend = _Served(client, link, asyncio.get_running_loop())
        super().__init__(backend, identity, hookpoint, context=client.model_config.max_model_len)
        self._tokenizer, self._own = identity.tokenizer, threading.local()

    @property
    def tokenizer(self) -> Any:
        """A copy for each thread: fast tokenizers cannot be used by two at once."""
        if not hasattr(self._own, "tokenizer"):
            self._own.tokenizer = copy.deepcopy(self._tokenizer)
        return self._own.tokenizer


class Scoring:
    """Scores answers for the routes, as `EngineLoop.score` does where the model is our own.

    max_queue: requests that may wait or be under way. busy: how many requests vLLM's engine has.
    """

    def __init__(self, detector: Detector, *, max_queue: int, busy: Callable[[], int] = lambda: 0) -> None:
        self.detector, self.max_queue, self._busy = detector, max_queue, busy
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="groundwire")
        # Replays wait for vLLM; what every verdict needs must not wait for them.
        self._replays = ThreadPoolExecutor(THREADS, thread_name_prefix="groundwire-replay")
        self._under_way, self._stopping, self._stopped = 0, False, False

    @property
    def waiting(self) -> int:
        return max(0, self._under_way - THREADS)

    @property
    def active(self) -> int:
        return min(self._under_way, THREADS) + self._busy()

    def start(self) -> None:
        """Nothing to start: threads come with work."""

    async def stop(self, seconds: float) -> None:
        """Take no more work; what is under way gets so many seconds."""
        self._stopping = True
        for _ in range(round(seconds * 20)):
            if not self._under_way:
                break
            await asyncio.sleep(0.05)
        self._stopped = True
        for pool in (self._pool, self._replays):
            pool.shutdown(wait=False, cancel_futures=True)

    async def score(self, examples: Sequence[Example], *, admitted: bool = False) -> list[Detection]:
        """Detections of answers that exist, in order. Raises QueueFull, Stopping, EngineFailed."""
        if not examples:
            return []
        if self._stopped or (self._stopping and not admitted):
            raise Stopping
        if not admitted and self._under_way >= self.max_queue:
            raise QueueFull(1)
        return await self._run(self._replays, scored, self.detector, examples)

    async def run(self, work: Any, *args: Any) -> Any:
        """The result of `work(*args)`, in a thread. Raises EngineFailed where it fails, Stopping where it never ran."""
        return await self._run(self._pool, work, *args)

    async def _run(self, pool: ThreadPoolExecutor, work: Any, *args: Any) -> Any:
        if self._stopped:
            raise Stopping
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(pool, work, *args)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled() and self._stopped:
                raise Stopping from None
            raise
        except GroundwireError:
            raise
        except Exception:
            logger.exception("answers were not checked")
            raise EngineFailed from None
        finally:
            self._under_way -= 1


class _Served:
    """A `Backend` that is called from threads, and reads in vLLM's event loop."""

    def __init__(self, client: Any, link: Link, loop: asyncio.AbstractEventLoop) -> None:
        self._client, self._link, self._loop = client, link, loop

    def read(self, prompts: Sequence[Prompt]) -> tuple[list[bytes | None], int]:
        """See `Backend.read`."""
        return asyncio.run_coroutine_threadsafe(self._read(prompts), self._loop).result()

    async def _read(self, prompts: Sequence[Prompt]) -> tuple[list[bytes | None], int]:
        tasks = [asyncio.ensure_future(self._one(prompt)) for prompt in prompts]
        try:
            outputs = await asyncio.gather(*tasks)
            found = await self._link.take([prompt.take for prompt in prompts])
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # so that none begins after it was forgotten
            self._link.drop([prompt.wish.key for prompt in prompts])
            raise
        return found, tokens_of(outputs)

    async def _one(self, prompt: Prompt) -> Any:
        from vllm import TokensPrompt

        given = TokensPrompt(prompt_token_ids=prompt.ids)
        outputs = self._client.generate(given, sampling(prompt), f"groundwire-{prompt.wish.key}")
        return [out async for out in outputs][-1]
