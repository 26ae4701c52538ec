"""Ways of running vLLM under which the rows of an answer are not where they are looked for: refused, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from groundwire.errors import InputError

TESTED = ("0.32.0",)  # releases of vLLM that the tests have run on

# What is refused: (how to tell from vLLM's configuration, its flag, why, what to do)
_REFUSED: tuple[tuple[Callable[[Any], bool], str, str, str], ...] = (
    (
        lambda c: c.parallel_config.pipeline_parallel_size > 1,
        "--pipeline-parallel-size above 1",
        "the hookpoint's layer and the end of the pass are then in different processes",
        "use --tensor-parallel-size",
    ),
    (
        lambda c: c.parallel_config.data_parallel_size > 1,
        "--data-parallel-size above 1",
        "a verdict would be asked of the wrong engine",
        "run several servers behind a load balancer",
    ),
    (
        lambda c: c.speculative_config is not None,
        "speculative decoding (--speculative-config)",
        "draft tokens that were rejected would be scored as if they were part of the answer",
        "leave it out",
    ),
    (
        lambda c: (
            getattr(c.parallel_config, "decode_context_parallel_size", 1) > 1
            or getattr(c.parallel_config, "prefill_context_parallel_size", 1) > 1
        ),
        "context parallelism",
        "each process sees some of the tokens only",
        "use --tensor-parallel-size",
    ),
    (
        lambda c: bool(getattr(c.cache_config, "kv_sharing_fast_prefill", False)),
        "--kv-sharing-fast-prefill",
        "layers are skipped for tokens that are to be scored",
        "leave it out",
    ),
    (
        lambda c: c.model_config.runner_type != "generate",
        "a pooling model",
        "it writes no answers",
        "serve a model that generates",
    ),
)


def check_config(config: Any) -> None:
    """Raise InputError on a vLLM configuration under which verdicts would mislead; it says which setting and why."""
    for applies, flag, why, remedy in _REFUSED:
        if applies(config):
            raise InputError(
                f"vLLM with {flag}: {why}", expected="verdicts from vLLM's own forward pass", remedy=remedy
            )
