"""Lingering, over a scheduler that does what vLLM's does with a request's tokens; with vLLM's own in tests/vllm."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from groundwire.engines.vllm.scheduler import SCHEDULER, Lingering, Scheduler, has_room
from groundwire.engines.vllm.wire import Wish

EOS, CONTEXT = 0, 16
REPEATED = 3  # a token that no answer may have three times in a row
Status = Enum("Status", ["RUNNING", "FINISHED_STOPPED", "FINISHED_LENGTH_CAPPED", "FINISHED_REPETITION"])


@dataclass
class Params:
    max_tokens: int
    extra_args: dict[str, Any] | None = None


@dataclass
class Request:
    """vLLM's, as far as it matters."""

    sampling_params: Params | None
    num_prompt_tokens: int = 4
    request_id: str = "r"
    resumable: bool = False
    status: Status = Status.RUNNING
    stop_reason: Any = None
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.max_tokens = self.sampling_params.max_tokens if self.sampling_params else 1

    @property
    def num_output_tokens(self) -> int:
        return len(self.tokens)


class Plain:
    """vLLM's scheduler, as far as it matters."""

    max_model_len = CONTEXT

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request

    def _update_request_with_output(
        self, request: Request, new_token_ids: list[int], is_stale: bool = False
    ) -> tuple[list[int], bool]:
        request.tokens += new_token_ids
        if request.tokens[-1] == EOS:
            request.status = Status.FINISHED_STOPPED
        elif (
            request.num_output_tokens >= request.max_tokens
            or request.num_prompt_tokens + request.num_output_tokens >= self.max_model_len
        ):
            request.status = Status.FINISHED_LENGTH_CAPPED
        elif request.tokens[-3:] == [REPEATED] * 3:
            request.status, request.stop_reason = Status.FINISHED_REPETITION, "repetition_detected"
        return new_token_ids, request.status is not Status.RUNNING


class Ours(Lingering, Plain):
    """A scheduler that lingers."""


def run(request: Request, sampled: list[int]) -> tuple[list[list[int]], list[bool]]:
    """What is said of a request in each step, and whether it is over then."""
    scheduler = Ours()
    scheduler.add_request(request)
    said: list[list[int]] = []
    over: list[bool] = []
    for token in sampled:
        new, stopped = scheduler._update_request_with_output(request, [token], is_stale=False)
        said.append(new)
        over.append(stopped)
        if stopped:
            break
    return said, over


def wished(count: int, **wish: Any) -> Params:
    return Params(count, Wish("key", **{"linger": True, **wish}).to_args())


@pytest.mark.parametrize("dropped", [9, EOS])
def test_an_answer_that_ends_by_length_lingers(dropped):
    given = wished(3)
    request = Request(given)
    assert run(request, [5, 6, 7, dropped]) == ([[5], [6], [7], []], [False, False, False, True])
    assert request.status is Status.FINISHED_LENGTH_CAPPED
    assert (given.max_tokens, request.sampling_params.max_tokens) == (3, 4)  # the caller's own stay as they are


@pytest.mark.parametrize("sampled", [[5, EOS], [5, 6, EOS]])
def test_one_that_ends_by_itself_does_not(sampled):
    request = Request(wished(3))
    assert run(request, sampled)[1] == [False] * (len(sampled) - 1) + [True]
    assert request.status is Status.FINISHED_STOPPED


@pytest.mark.parametrize(
    "request_",
    [
        Request(Params(3)),
        Request(Params(3, {"other": 1})),
        Request(Params(3, {"groundwire": "nonsense"})),
        Request(wished(3, linger=False)),
        Request(wished(3), resumable=True),
        Request(wished(3), num_prompt_tokens=CONTEXT - 3),
    ],
)
def test_those_that_nobody_follows_and_those_without_room_do_not(request_):
    assert run(request_, [5, 6, 7]) == ([[5], [6], [7]], [False, False, True])
    assert request_.max_tokens == 3


@pytest.mark.parametrize(("count", "ended"), [(3, "LENGTH_CAPPED"), (4, "REPETITION")])
def test_repetition_is_looked_for_after_length(count, ended):
    request = Request(wished(count))
    run(request, [REPEATED] * 9)
    assert request.status.name == f"FINISHED_{ended}"
    assert request.stop_reason == ("repetition_detected" if count == 4 else None)


def test_others_pass():
    scheduler, pooling, again = Ours(), Request(None), Request(wished(3))
    scheduler.add_request(pooling)
    scheduler.add_request(again)  # of the same id: vLLM's to say what that is
    assert (pooling.max_tokens, again.max_tokens) == (1, 3)


def test_room():
    assert has_room(10, 5, 16)
    assert not has_room(10, 6, 16)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize("asynchronous", [False, True])
def test_it_is_named_where_it_is_and_needs_vllm(asynchronous):
    assert f"{Scheduler.__module__}.{Scheduler.__name__}" == SCHEDULER
    config = SimpleNamespace(scheduler_config=SimpleNamespace(async_scheduling=asynchronous))
    with pytest.raises(ModuleNotFoundError, match="vllm"):
        Scheduler(vllm_config=config)
