"""The operator's settings where vLLM serves: those of `Settings` that vLLM has not got itself."""

from __future__ import annotations

from typing import Any

from groundwire.errors import InputError
from groundwire.server.settings import Settings, flag

# vLLM has these itself: what to use instead.
THEIRS = {
    "host": "--host of vLLM",
    "port": "--port of vLLM",
    "model": "the model that vLLM serves",
    "served_model_name": "--served-model-name of vLLM",
    "max_batch": "--max-num-seqs of vLLM",
    "max_tokens_default": "--override-generation-config of vLLM",
    "api_keys": "--api-key of vLLM",
    "api_keys_file": "--api-key of vLLM",
    "metrics_open": "vLLM's own /metrics, which is open",
    "upstream_url": "a gateway without --engine vllm",
    "upstream_key": "a gateway without --engine vllm",
    "upstream_timeout": "a gateway without --engine vllm",
}

# What vLLM does not limit, or limits itself, is not limited here either, unless the operator does.
WIDE: dict[str, Any] = {
    "max_body_bytes": 256 << 20,
    "body_timeout": 600.0,
    "request_timeout": 24 * 3600.0,
    "max_choices": 16_384,
    "max_queue": 1024,
}


def vllm_settings(settings: Settings) -> Settings:
    """The settings as they hold inside vLLM. Raises InputError on one that is vLLM's own."""
    for name in sorted(settings.model_fields_set & THEIRS.keys()):
        raise InputError(
            f"the setting {name} ({flag(name)}) where vLLM serves",
            expected="a setting of Groundwire's own",
            remedy=f"use {THEIRS[name]}",
        )
    wide = {name: value for name, value in WIDE.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=wide)
