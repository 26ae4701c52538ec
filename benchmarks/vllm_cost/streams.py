"""Answers as they stream in, and the load that they make together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
from vllm_cost.asks import Ask, Load

ON, OFF = "on", "off"


@dataclass(frozen=True)
class Heard:
    """One streamed answer. Times are seconds of one clock.

    number: the request's. texts: when each piece of text came, but for the last: it comes with the end, or before.
    """

    number: int
    sent: float
    texts: tuple[float, ...]
    finished: float
    prompt_tokens: int
    tokens: int

    @property
    def first(self) -> float:
        return self.texts[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        """Between two texts."""
        return [b - a for a, b in pairwise(self.texts)]

    @property
    def end(self) -> float:
        """From the last text but one to the end: the last token's time, and the verdict where there is one."""
        return self.finished - self.texts[-1]


class Listener:
    """Takes in the lines of one stream."""

    def __init__(self, sent: float) -> None:
        self._sent, self._texts, self._finished = sent, list[float](), 0.0
        self._usage: dict[str, Any] = {}
        self._verdict: Any = None

    def hear(self, line: str, now: float) -> None:
        """A line that came at `now`. Raises RuntimeError on an error in the stream."""
        if not line.startswith("data: {"):
            return
        chunk = json.loads(line.removeprefix("data: "))
        if chunk.get("error"):
            raise RuntimeError(f"the server broke off: {chunk['error']}")
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk["choices"]:
            self._verdict = choice.get("hallucination", self._verdict)
            if choice["delta"].get("content"):
                self._texts.append(now)
            if choice.get("finish_reason"):
                self._finished = now

    def heard(self, asked: Ask, *, checked: bool) -> Heard:
        """The whole answer. Raises RuntimeError where it is not what was asked for, verdict included."""
        said = {name: self._usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        if len(self._texts) < 3 or not self._finished or said["completion_tokens"] != asked.tokens:
            raise RuntimeError(f"{len(self._texts)} texts, usage {said}: expected {asked.tokens} tokens")
        if why := wrong(self._verdict, checked=checked):
            raise RuntimeError(why)
        texts = tuple(self._texts[:-1])
        return Heard(asked.number, self._sent, texts, self._finished, int(said["prompt_tokens"] or 0), asked.tokens)


def wrong(verdict: Any, *, checked: bool) -> str | None:
    """What of a verdict does not go with the server that gave it; None where nothing does not."""
    if not checked:
        return None if verdict is None else "the stock server gives verdicts: it is not stock"
    if verdict is None or verdict["status"] != "checked":
        return f"an answer was not checked: {verdict}"
    if not verdict["detector"]["same_model"]:
        return "another model judges: no detector fits the model that is served, so this would measure something else"
    return None


async def ask(client: httpx.AsyncClient, model: str, asked: Ask, *, checked: bool) -> Heard:
    """Ask one question. Raises RuntimeError where it is not answered as it should be."""
    listener = Listener(time.perf_counter())
    body = asked.body(model, checked=checked)
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread()).decode()[:500]}")
        async for line in response.aiter_lines():
            listener.hear(line, time.perf_counter())
    return listener.heard(asked, checked=checked)


async def run(url: str, model: str, load: Load, asks: Sequence[Ask], *, checked: bool) -> list[Heard]:
    """Put a load on a server; the answers are in the order of the requests' numbers."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=3600, limits=limits) as client:
        if load.streams is None:
            return await asyncio.gather(*(_later(client, model, one, checked) for one in asks))
        lanes = [asks[i :: load.streams] for i in range(load.streams)]
        found = await asyncio.gather(*(_lane(client, model, lane, checked) for lane in lanes))
    return sorted((heard for lane in found for heard in lane), key=lambda heard: heard.number)


async def _later(client: httpx.AsyncClient, model: str, asked: Ask, checked: bool) -> Heard:
    await asyncio.sleep(asked.at)
    return await ask(client, model, asked, checked=checked)


async def _lane(client: httpx.AsyncClient, model: str, asks: Sequence[Ask], checked: bool) -> list[Heard]:
    return [await ask(client, model, one, checked=checked) for one in asks]


def check_pair(on: Sequence[Heard], off: Sequence[Heard]) -> None:
    """Raise RuntimeError unless both servers did the same work."""
    for one, other in zip(on, off, strict=True):
        did, other_did = ((h.number, h.prompt_tokens, h.tokens) for h in (one, other))
        if did != other_did:
            raise RuntimeError(f"number, prompt and answer tokens: {did} with verdicts, {other_did} without")
