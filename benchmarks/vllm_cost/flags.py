"""vLLM's flags as options of `vllm.LLM`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def options_of(flags: Sequence[str]) -> dict[str, Any]:
    """What flags of `vllm serve` say, for `vllm.LLM`; what they do not name is left to it."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    given, usual = vars(parser.parse_args(list(flags))), vars(parser.parse_args([]))
    return {name: value for name, value in given.items() if value != usual[name]}
