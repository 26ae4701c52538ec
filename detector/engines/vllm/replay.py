"""Answers that exist, read by vLLM: requests of prompt and answer together, which share what is in its prefix cache.

A hit over the answer itself leaves its rows out (they were computed for somebody else): such a request is sent again
without reading the cache.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from groundwire.engines.base import Asked
from groundwire.engines.vllm.wire import Take, Wish, unpack, unpack_rows
from groundwire.errors import CaptureError
from groundwire.scoring import Scorer
from groundwire.types import Readout

TOGETHER = 2048  # requests handed to vLLM at once
TOGETHER_FEATURES = 64  # likewise, where every token's features come back


@dataclass(frozen=True)
class Prompt:
    """Token ids to be read, and what is wanted of them. fresh: without reading the prefix cache."""

    ids: list[int]
    wish: Wish
    fresh: bool = False

    @property
    def take(self) -> Take:
        """What the worker is asked for afterwards."""
        return Take(self.wish.key, 0, len(self.ids) - (self.wish.start or 0))


@runtime_checkable
class Backend(Protocol):
    """A vLLM that reads prompts."""

    def read(self, prompts: Sequence[Prompt]) -> tuple[list[bytes | None], int]:
        """What its worker found of each, and how many tokens went through the model."""
        ...


class Replay:
    """Reads answers through a backend. tokens_read: tokens that went through the model so far."""

    def __init__(self, backend: Backend) -> None:
        self._backend, self.tokens_read = backend, 0

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """See `Engine.replay`. Raises CaptureError where rows are missing for all that."""
        places = {
            (tuple(each.prompt), tuple(response)): None for each in asked for response in each.responses if response
        }  # equal answers to a prompt are read once
        found: dict[Any, Readout] = {}
        rest: Iterator[Any] = iter(places)
        while batch := list(itertools.islice(rest, TOGETHER_FEATURES if features else TOGETHER)):
            for place, data in zip(batch, self._found(batch, features), strict=True):
                found[place] = unpack(data, scorer)
        empty = scorer.finish(scorer.new_state(1), 0)
        return [
            [found.get((tuple(each.prompt), tuple(response)), empty) for response in each.responses] for each in asked
        ]

    def rows(self, ids: Sequence[int]) -> Any:
        """Residual rows of a token sequence at the hookpoint. Raises CaptureError."""
        wish = Wish(uuid.uuid4().hex, start=0, hold=0, replay=True, rows=True)
        (data,), read = self._backend.read([Prompt(list(ids), wish, fresh=True)])
        self.tokens_read += read
        return unpack_rows(_there(data))

    def _found(self, batch: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], features: bool) -> list[bytes]:
        prompts = [_prompt(prompt, response, features) for prompt, response in batch]
        found, read = self._backend.read(prompts)
        self.tokens_read += read
        again = [i for i, data in enumerate(found) if data is None]
        if again:
            more, read = self._backend.read([_prompt(*batch[i], features, fresh=True) for i in again])
            self.tokens_read += read
            for i, data in zip(again, more, strict=True):
                found[i] = data
        return [_there(data) for data in found]


def _prompt(prompt: Sequence[int], response: Sequence[int], features: bool, *, fresh: bool = False) -> Prompt:
    wish = Wish(uuid.uuid4().hex, start=len(prompt), hold=0, replay=True, features=features)
    return Prompt([*prompt, *response], wish, fresh)


def _there(data: bytes | None) -> bytes:
    if data is None:
        raise CaptureError(
            "vLLM's worker has no rows of a request",
            expected="the rows of every token after its prompt",
            remedy="see the server's log; use a release of vLLM that is listed as tested",
        )
    return data
