"""What a detector needs of whatever runs the model: generate with features, replay a given response, read one row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from groundwire.adapter import Adapter
from groundwire.errors import InputError
from groundwire.focus import Focus, FocusIndex
from groundwire.prompts import Rendered
from groundwire.scoring import Scorer
from groundwire.types import Readout, Request, Step, Token


@dataclass(frozen=True)
class Asked:
    """A prompt and the responses to it that are to be scored, as token ids.

    known: what the engine kept of the prompt when it generated (`Step.prompt`), so that it is not read again; None
        for nothing. An engine that cannot use it reads the prompt.
    focus: what of the prompt the tokens of a response attend to, by its token ids; of others, all.
    """

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    known: Any = None
    focus: Mapping[tuple[int, ...], Focus] = field(default_factory=dict)

    @classmethod
    def of(
        cls, prompt: Rendered, answers: Sequence[tuple[str, Sequence[Token]]], focus: int, known: Any = None
    ) -> Asked:
        """answers: texts and their tokens. focus: passage sentences that each sentence is read with; 0 for all."""
        ids = [tuple(token.id for token in tokens) for _, tokens in answers]
        if not focus:
            return cls(prompt.ids, ids, known)
        index = FocusIndex(prompt)
        found = {own: index.of(text, tokens, focus) for own, (text, tokens) in zip(ids, answers, strict=True)}
        return cls(prompt.ids, ids, known, found)


@runtime_checkable
class Generation(Protocol):
    """Requests that decode together; they come and go between steps. Not for several threads."""

    def __len__(self) -> int:
        """Requests under way, those that wait for their first step included."""
        ...

    def add(self, request: Request) -> int:
        """Let a request join at the next step; return its prompt's tokens.

        Raises InputError on messages or sampling that cannot be used and on an id that is under way, PromptTooLong
        where prompt and `max_tokens` exceed the context.
        """
        ...

    def drop(self, request_id: str) -> None:
        """Abandon a request; an unknown id is ignored."""
        ...

    def step(self) -> list[tuple[str, Step]]:
        """Advance every request by one token; nothing where there is none. See `Engine.generate`."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs one model and captures at one hookpoint.

    model_id: name of the model. fingerprint: hashes of its source files, tokenizer and chat template.
    context: most tokens, prompt and response together. tokenizer: a Hugging Face fast tokenizer, or one like it.
    tokens_read: tokens that replays have put through the model so far.
    """

    model_id: str
    fingerprint: Mapping[str, str]
    hookpoint: str
    context: int

    @property
    def tokenizer(self) -> Any: ...

    @property
    def tokens_read(self) -> int: ...

    def begin(self, scorer: Scorer) -> Generation:
        """A generation without requests yet."""
        ...

    def generate(self, requests: Sequence[Request], scorer: Scorer) -> Iterator[tuple[str, Step]]:
        """Generate for all requests together; yield `(request id, step)` as tokens come.

        Every request's last step carries its finish reason and readout. Raises PromptTooLong before the first step.
        """
        ...

    def replay(self, asked: Sequence[Asked], scorer: Scorer, *, features: bool = False) -> list[list[Readout]]:
        """Score responses that already exist: for each prompt, the readouts of its responses, in order.

        Each prompt is encoded once for all its responses, and no pass goes beyond the hookpoint. Which prompts and
        responses are given together does not change a score by more than 1e-3.
        features: keep each response's `Readout.features`. Raises PromptTooLong where a prompt with its longest response
        does not fit.
        """
        ...

    def read(self, ids: Sequence[int]) -> Float[Tensor, "tokens d"]:
        """Residual rows of a token sequence at the hookpoint, float32."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """An engine that can replay with an adapter on the responses' tokens.

    focuses: whether they can attend to parts of their prompt (`Asked.focus`).
    """

    @property
    def focuses(self) -> bool: ...

    def adapted(self, adapter: Adapter) -> Engine:
        """An engine of the same model that replays with `adapter`."""
        ...


def check_new(request: Request, under_way: Collection[str]) -> None:
    """What every engine refuses of a request that is to be generated. Raises InputError."""
    if request.sampling.max_tokens < 1:
        raise InputError(
            f"max_tokens of {request.sampling.max_tokens} in request {request.id!r}",
            expected="1 or more",
            remedy="leave it out, or ask for at least one token",
        )
    if request.id in under_way:
        raise InputError(f"two requests with the id {request.id!r}", expected="an id each")
