"""What one client's request asks vLLM for, followed: its prompts, the tokens of each choice, the scores so far.

`FollowingClient` stands between vLLM's own handlers and its engine. The requests of a handler that is called while a
`Follow` is current are followed; all others pass through.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from groundwire.calibration import sigmoid
from groundwire.engines.vllm.running import RunningBlock, tag
from groundwire.engines.vllm.scheduler import SCHEDULER, has_room
from groundwire.engines.vllm.slots import ROOM
from groundwire.engines.vllm.wire import KEY, Take, Wish
from groundwire.server.errors import ApiError
from groundwire.server.vllm.link import Link

logger = logging.getLogger(__name__)

AHEAD = 4  # steps that vLLM may run beyond a stop string: its front is who finds it
Added = Callable[[str], float]  # log-odds that the text so far adds

_current: ContextVar[Follow | None] = ContextVar("follow", default=None)


@dataclass(eq=False)
class Choice:
    """One answer as far as it has come. ids: vLLM's own, a token that ended it included. place: of its score so far."""

    asked: Asked
    number: int
    place: int | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    ended_by: str | None = None  # vLLM's finish reason
    stop: int | str | None = None  # what it stopped at: a token or a string; None for the end of the text
    halted: bool = False

    @property
    def over(self) -> bool:
        return self.halted or self.ended_by is not None

    @property
    def visible(self) -> list[int]:
        """The ids less one that only ends the answer."""
        ended = self.ended_by == "stop" and not self.halted and not isinstance(self.stop, str)
        return self.ids[:-1] if ended else self.ids

    @property
    def rows(self) -> int:
        """How many of the ids were inputs: the last one was not, unless it was followed by one that is dropped."""
        lingered = self.ended_by == "length" and has_room(len(self.asked.ids), len(self.ids), self.asked.context)
        return len(self.ids) if self.halted or (lingered and self.asked.lingers) else len(self.ids) - 1

    def hear(self, output: Any, *, whole: bool) -> None:
        """Take in an output of vLLM's: all of the answer so far, or what is new."""
        if whole:
            self.ids, self.text = list(output.token_ids), output.text
        else:
            self.ids += output.token_ids
            self.text += output.text
        if output.finish_reason is not None:
            self.ended_by, self.stop = output.finish_reason, output.stop_reason


@dataclass(eq=False)
class Asked:
    """One prompt that vLLM was asked to answer. ids: of the prompt, once known. plain: whether they are all of it.
    salt: of its place in the prefix cache. context: most tokens of prompt and answer. lingers: where it ends by length,
    its last token is read too (see `engines.vllm.scheduler`)."""

    key: str
    plain: bool
    late: bool  # reasoning comes before the answer
    salt: str | None
    foreign: bool  # answered with a LoRA adapter: not the model that the detector was trained on
    context: int
    lingers: bool
    choices: list[Choice] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)


class FollowingClient:
    """vLLM's engine client, for its handlers."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(self, prompt: Any, sampling_params: Any, request_id: str, *args: Any, **more: Any) -> Any:
        """As vLLM's own. What clients wrote into our place of the parameters is taken out."""
        if sampling_params.extra_args:
            sampling_params.extra_args.pop(KEY, None)
        follow = _current.get()
        if follow is None:
            return self._client.generate(prompt, sampling_params, request_id, *args, **more)
        return follow.generate(self._client, prompt, sampling_params, request_id, *args, **more)


class Follow:
    """Follows what is generated for one request. Close it when its verdicts are there.

    running: whether scores so far are wanted. added: of each prompt, what its texts add to them. halts: whether a score
    so far ends the answer. late: rows are folded at the end only, for it is not known before which make the answer.
    linger: whether answers that end by length may, where vLLM has our scheduler; the reason they ended comes in a chunk
    of its own then.
    """

    def __init__(
        self,
        link: Link,
        block: RunningBlock | None,
        *,
        intercept: float = 0.0,
        running: bool = False,
        added: list[Added] | None = None,
        halts: Callable[[float], bool] | None = None,
        late: bool = False,
        linger: bool = True,
    ) -> None:
        self._link, self._block, self._intercept = link, block, intercept
        self._running, self._added, self._halts, self._late = running or halts is not None, added or [], halts, late
        self._linger = linger
        self._asked: list[Asked] = []
        self._generators: list[AsyncGenerator[Any]] = []

    @contextmanager
    def current(self) -> Iterator[None]:
        """Requests to the engine that are made within are followed."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    @property
    def prompts(self) -> int:
        return len(self._asked)

    def choice(self, index: int) -> Choice | None:
        """A choice by its number in the reply; None where it was not followed."""
        choices = [choice for asked in self._asked for choice in asked.choices]
        return choices[index] if index < len(choices) else None

    def running(self, index: int) -> float | None:
        """The score so far of a choice; None before its first row, and where it is not wanted."""
        choice = self.choice(index)
        return None if choice is None else self._score(choice)

    def generate(self, client: Any, prompt: Any, params: Any, request_id: str, *args: Any, **more: Any) -> Any:
        """vLLM's `generate`, followed."""
        foreign = more.get("lora_request") is not None
        plain = isinstance(prompt, dict) and prompt.get("type") == "token"
        salt = prompt.get("cache_salt") if isinstance(prompt, dict) else None
        context = client.model_config.max_model_len
        # Where another engine decodes, it takes over as much of the cache as the prompt needs.
        lingers = self._linger and "kv_transfer_params" not in (params.extra_args or {})
        lingers = lingers and client.vllm_config.scheduler_config.scheduler_cls == SCHEDULER
        asked = Asked(uuid.uuid4().hex, plain, self._late, salt, foreign, context, lingers)
        self._asked.append(asked)
        places = self._block.lend(params.n) if self._running and self._block and not self._late else ()
        if self._halts is not None and not self._late and not places:
            raise ApiError(503, "No more answers can be halted at once. Try again.", headers={"retry-after": "1"})
        asked.choices = [Choice(asked, i, places[i] if places else None) for i in range(params.n)]
        if not foreign:
            held = max((len(text.encode()) + AHEAD for text in _strings(params.stop)), default=1)
            late = self._late or held > ROOM // 2 or (held > 1 and bool(places))  # the score so far waits for no row
            wish = Wish(
                asked.key, choices=params.n, hold=1 if late else held, keep=late, running=places, linger=lingers
            )
            params.extra_args = {**(params.extra_args or {}), **wish.to_args()}
        outputs = self._heard(asked, client, prompt, params, request_id, args, more)
        self._generators.append(outputs)
        return outputs

    def close(self) -> None:
        """Forget all of it; what still runs is ended. Closing twice is fine."""
        generators, self._generators = self._generators, []
        for generator in generators:
            _end(generator)
        self._link.drop([asked.key for asked in self._asked])
        if self._block is not None:
            for asked in self._asked:
                self._block.give_back([choice.place for choice in asked.choices if choice.place is not None])
        self._asked = []

    async def _heard(
        self, asked: Asked, client: Any, prompt: Any, params: Any, request_id: str, args: Any, more: Any
    ) -> AsyncGenerator[Any]:
        kind = params.output_kind
        final = kind.name == "FINAL_ONLY"
        if final and self._halts is not None:
            params.output_kind = type(kind).CUMULATIVE  # else nothing is heard before the end
        whole = kind.name != "DELTA"
        last: dict[int, Any] = {}
        async with aclosing(client.generate(prompt, params, request_id, *args, **more)) as outputs:
            async for out in outputs:
                if out.prompt_token_ids is not None:
                    asked.ids = out.prompt_token_ids
                if self._halts is None:
                    for output in out.outputs:
                        asked.choices[output.index].hear(output, whole=whole)
                    yield out
                    continue
                out.outputs = [o for o in out.outputs if self._hear(asked.choices[o.index], o, whole=whole)]
                out.finished = all(choice.over for choice in asked.choices)
                last |= {output.index: output for output in out.outputs}
                if final and out.finished:
                    out.outputs = [last[number] for number in sorted(last)]
                if (out.outputs and not final) or out.finished:
                    yield out
                if out.finished:
                    return

    def _hear(self, choice: Choice, output: Any, *, whole: bool) -> bool:
        """Take in an output, unless the choice was halted; it is halted here where its score so far demands it."""
        if choice.halted:
            return False
        before, text, count = choice.ids, choice.text, len(choice.ids)
        choice.hear(output, whole=whole)
        score = None if choice.ended_by is not None else self._score(choice)
        if score is None or self._halts is None or not self._halts(score):
            return True
        choice.halted, choice.ids, choice.text = True, before[:count], text
        output.finish_reason, output.stop_reason = "stop", None
        output.token_ids, output.text = (choice.ids, choice.text) if whole else ([], "")
        if output.logprobs is not None:
            output.logprobs = output.logprobs[: len(choice.ids)] if whole else []
        return True

    def _score(self, choice: Choice) -> float | None:
        if choice.place is None or self._block is None or choice.asked not in self._asked:
            return None
        total = self._block.read(choice.place, tag(choice.asked.key))
        if total is None:
            return None
        prompt = self._asked.index(choice.asked)
        added = self._added[prompt * len(choice.asked.choices) + choice.number](choice.text) if self._added else 0.0
        return sigmoid(self._intercept + total + added)


async def finish(client: Any, choice: Choice) -> bool:
    """Have the last token of an answer read too, which was never an input; whether that was possible."""
    from vllm import SamplingParams, TokensPrompt

    asked = choice.asked
    if not has_room(len(asked.ids), len(choice.ids), asked.context):
        return False
    wish = Wish(asked.key, choices=len(asked.choices))
    params = SamplingParams(max_tokens=1, temperature=0, detokenize=False, extra_args=wish.to_args())
    prompt = TokensPrompt(prompt_token_ids=[*asked.ids, *choice.ids])
    if asked.salt is not None:
        prompt["cache_salt"] = asked.salt
    try:
        async for _ in client.generate(prompt, params, f"{choice.number}_groundwire-{uuid.uuid4().hex}"):
            pass
    except Exception as error:  # such as a queue that is full
        logger.warning("the last token of an answer could not be read: %s", type(error).__name__)
        return False
    return True


def take(choice: Choice, count: int, skip: int) -> Take:
    """What the worker is asked for."""
    return Take(choice.asked.key, choice.number, count, skip)


def _strings(stop: Any) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())


def _end(generator: AsyncGenerator[Any]) -> None:
    async def ended() -> None:
        with suppress(Exception):  # it is running: whoever reads it ends it
            await generator.aclose()

    with suppress(RuntimeError):  # no event loop: nothing runs any more
        _ending.add(task := asyncio.get_running_loop().create_task(ended()))
        task.add_done_callback(_ending.discard)


_ending: set[asyncio.Task[None]] = set()
