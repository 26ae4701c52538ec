"""Answers that exist, read by vLLM: requests of prompt and answer together, which share what is in its prefix cache.

A hit over the answer itself leaves its rows out (they were computed for somebody else): such a request is sent again
without reading the cache.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from groundwire.engines.base import Asked, Generation
from groundwire.engines.reader import Identity
from groundwire.engines.vllm.wire import Take, Wish, unpack, unpack_rows
from groundwire.errors import CaptureError, InputError, PromptTooLong
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Step

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


class ReplayEngine:
    """An `Engine` that reads answers through a backend, and generates none: vLLM does that in its server.

    identity: which model the backend runs. hookpoint: the detector's. context: vLLM's. tokens_read: see `Engine`.
    """

    def __init__(self, backend: Backend, identity: Identity, hookpoint: str, *, context: int) -> None:
        self._backend, self.tokens_read = backend, 0
        self.model_id, self.hookpoint = identity.id, hookpoint
        self.fingerprint: Mapping[str, str] = identity.fingerprint
        self.context = context - 1  # vLLM generates a token after every prompt

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """See `Engine.replay`. Raises CaptureError where rows are missing for all that."""
        for each in asked:
            self.check_length(len(each.prompt), max(map(len, each.responses), default=0))
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

    def read(self, ids: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """See `Engine.read`. Raises CaptureError."""
        self.check_length(len(ids), 0)
        wish = Wish(uuid.uuid4().hex, start=0, hold=0, replay=True, rows=True)
        (data,), read = self._backend.read([Prompt(list(ids), wish, fresh=True)])
        self.tokens_read += read
        return unpack_rows(_there(data))

    def begin(self, scorer: Scorer) -> Generation:
        """A generation that refuses every request."""
        return NoGeneration()

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """Raises InputError on any request."""
        for request in requests:
            NoGeneration().add(request)
        return iter(())

    def check_length(self, prompt: int, response: int) -> None:
        """Raises PromptTooLong where so many tokens exceed the context."""
        if prompt + response > self.context:
            raise PromptTooLong(
                f"{prompt} prompt tokens and {response} response tokens",
                expected=f"at most {self.context} together, vLLM's --max-model-len less one",
                remedy="send fewer or shorter passages, or raise --max-model-len",
            )

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


class NoGeneration:
    """See `Generation`: one that never has a request."""

    def __len__(self) -> int:
        return 0

    def add(self, request: Request) -> int:
        """Raises InputError."""
        raise InputError(
            f"request {request.id!r} to be answered by the vLLM engine",
            expected="answers that exist: score, score_batch, groundwire score",
            remedy="ask vLLM's own API for answers (`groundwire serve --engine vllm`), or use the transformers engine",
        )

    def drop(self, request_id: str) -> None:
        """There is none."""

    def step(self) -> list[tuple[str, Step]]:
        """Nothing."""
        return []


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
