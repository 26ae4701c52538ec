"""Configurations under which verdicts would mislead are refused, each by its name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from groundwire.engines.vllm.refusals import TESTED, check_config
from groundwire.errors import InputError


def config(**changes: Any) -> SimpleNamespace:
    """As vLLM's VllmConfig, with what is looked at; `a__b` is b of a."""
    found = SimpleNamespace(
        parallel_config=SimpleNamespace(
            pipeline_parallel_size=1,
            data_parallel_size=1,
            decode_context_parallel_size=1,
            prefill_context_parallel_size=1,
            tensor_parallel_size=2,
        ),
        speculative_config=None,
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
        model_config=SimpleNamespace(runner_type="generate"),
    )
    for path, value in changes.items():
        *parts, name = path.split("__")
        part = found
        for step in parts:
            part = getattr(part, step)
        setattr(part, name, value)
    return found


def test_tensor_parallelism_is_fine():
    check_config(config())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parallel_config__pipeline_parallel_size": 2}, "(?s)--pipeline-parallel-size.*--tensor-parallel-size"),
        ({"parallel_config__data_parallel_size": 2}, "(?s)--data-parallel-size.*load balancer"),
        ({"speculative_config": object()}, "(?s)speculative decoding.*leave it out"),
        ({"parallel_config__decode_context_parallel_size": 2}, "context parallelism"),
        ({"parallel_config__prefill_context_parallel_size": 2}, "context parallelism"),
        ({"cache_config__kv_sharing_fast_prefill": True}, "--kv-sharing-fast-prefill"),
        ({"model_config__runner_type": "pooling"}, "pooling model"),
    ],
)
def test_what_is_refused_is_named(changes, says):
    with pytest.raises(InputError, match=says):
        check_config(config(**changes))


def test_the_tested_releases_are_stated():
    assert TESTED
