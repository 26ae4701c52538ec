"""vLLM's scheduler, for answers that end by length: `--scheduler-cls groundwire.engines.vllm.scheduler.Scheduler`.

The last token of such an answer is never an input of the model, so it has no row. Here a request that is followed
lingers for one step more, which reads that token; the one it samples is dropped. The reply is the same, its finish
reason comes a step later. Without this scheduler the token is read in another request, with a block of the prompt.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from groundwire.engines.vllm.wire import Wish
from groundwire.errors import InputError

SCHEDULER = "groundwire.engines.vllm.scheduler.Scheduler"


class Lingering:
    """What a scheduler class of vLLM's is extended by."""

    max_model_len: int
    requests: dict[str, Any]

    def add_request(self, request: Any) -> None:
        """See vLLM's. A request that lingers may have one token more, of which nobody hears."""
        if request.request_id not in self.requests and self._lingers(request):
            request.groundwire_limit = request.max_tokens
            request.max_tokens += 1
            request.sampling_params = copy.copy(request.sampling_params)
            request.sampling_params.max_tokens = request.max_tokens
        super().add_request(request)  # type: ignore[misc]

    def _update_request_with_output(
        self, request: Any, new_token_ids: list[int], *args: Any, **more: Any
    ) -> tuple[list[int], bool]:
        before, limit = request.status, getattr(request, "groundwire_limit", None)
        found: tuple[list[int], bool] = super()._update_request_with_output(  # type: ignore[misc]
            request, new_token_ids, *args, **more
        )
        if limit is None or request.num_output_tokens < limit:
            return found
        if request.num_output_tokens > limit:
            request.status, request.stop_reason = type(before).FINISHED_LENGTH_CAPPED, None
            return [], True
        if request.status.name == "FINISHED_REPETITION":  # vLLM sees to the length before it looks for these
            request.status, request.stop_reason = before, None
            return found[0], False
        return found

    def _lingers(self, request: Any) -> bool:
        params = request.sampling_params
        if params is None or request.resumable:
            return False
        try:
            wish = Wish.of(params.extra_args)
        except InputError:  # the worker says so
            return False
        room = has_room(request.num_prompt_tokens, request.max_tokens, self.max_model_len)
        return wish is not None and wish.linger and room


def has_room(prompt: int, answer: int, context: int) -> bool:
    """Whether an answer that ends by length can linger. prompt, answer, context: tokens."""
    return prompt + answer < context


def Scheduler(*args: Any, vllm_config: Any, **more: Any) -> Any:
    """The scheduler that vLLM would take, lingering. vLLM calls it as the class that `SCHEDULER` names."""
    if vllm_config.scheduler_config.async_scheduling:
        from vllm.v1.core.sched.async_scheduler import AsyncScheduler as Base
    else:
        from vllm.v1.core.sched.scheduler import Scheduler as Base
    return _lingering(Base)(*args, vllm_config=vllm_config, **more)


@cache
def _lingering(base: type) -> type:
    return type(base.__name__, (Lingering, base), {"__module__": __name__, "__doc__": Lingering.__doc__})
