"""vLLM offline: answers that exist are read in large continuous batches. For `groundwire score --engine vllm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundwire.artifact import Artifact
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.engines.reader import Identity, identify
from groundwire.engines.vllm.replay import Prompt, ReplayEngine
from groundwire.engines.vllm.wire import KEY
from groundwire.engines.vllm.worker import WORKER
from groundwire.errors import GroundwireError, MissingExtra, ModelError


class VllmEngine(ReplayEngine):
    """Reads with a `vllm.LLM` that runs our worker. See `ReplayEngine`.

    identity: which model the LLM has. hookpoint: the detector's.
    """

    unit_characters = 2**18  # several full steps of a GPU: between two units it has nothing to do

    def __init__(self, llm: Any, identity: Identity, hookpoint: str) -> None:
        config = llm.llm_engine.model_config
        super().__init__(_Offline(llm), identity, hookpoint, context=config.max_model_len)
        self.llm, self.tokenizer = llm, identity.tokenizer
        self.dtype = f"vllm {str(config.dtype).removeprefix('torch.')}"  # other sums than another engine's

    @classmethod
    def open(cls, artifact: str | Path | None = None, *, model: str | Path | None = None, **options: Any) -> VllmEngine:
        """Start vLLM with a detector (folder; None for the one that ships) and its model, or `model` in its place.

        options: of `vllm.LLM`, such as `gpu_memory_utilization`, `tensor_parallel_size` or `dtype`. Raises MissingExtra
        without vLLM, InputError on options that are refused, ArtifactError and ModelError where detector or model
        cannot be had, ModelError where vLLM cannot start.
        """
        try:
            from vllm import LLM
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != "vllm":
                raise
            raise MissingExtra("vllm", "vllm") from error
        folder = Path(artifact or DEFAULT_ARTIFACT).resolve()
        loaded = Artifact.of_detector(folder)
        identity = identify(model or loaded.model, trust_remote_code=bool(options.get("trust_remote_code")))
        extra = {**(options.pop("additional_config", None) or {}), KEY: {"detector": str(folder)}}
        try:
            llm = LLM(model=identity.source, worker_cls=WORKER, additional_config=extra, **options)
        except GroundwireError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise ModelError(
                f"vLLM cannot start with {identity.id}: {reason}",
                expected="a model that this release of vLLM runs, and room for it",
                remedy="see vLLM's own messages above",
            ) from error
        return cls(llm, identity, loaded.hookpoint)


class _Offline:
    """A `Backend` that runs in this process."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm

    def read(self, prompts: Sequence[Prompt]) -> tuple[list[bytes | None], int]:
        """See `Backend.read`."""
        from vllm import TokensPrompt

        outputs = self._llm.generate(
            [TokensPrompt(prompt_token_ids=prompt.ids) for prompt in prompts],
            [sampling(prompt) for prompt in prompts],
            use_tqdm=False,
        )
        found = self._llm.collective_rpc("groundwire_take", args=([asdict(prompt.take) for prompt in prompts], []))
        return first_of(found) or [None] * len(prompts), tokens_of(outputs)


def sampling(prompt: Prompt) -> Any:
    """vLLM's sampling parameters of a prompt that is only read."""
    from vllm import SamplingParams

    return SamplingParams(
        max_tokens=1,
        temperature=0,
        detokenize=False,
        extra_args=prompt.wish.to_args(),
        skip_reading_prefix_cache=True if prompt.fresh else None,
    )


def first_of(found: Sequence[Any]) -> Any:
    """What the worker that follows says, of all workers' answers; None where none follows."""
    return next((one for one in found if one is not None), None)


def tokens_of(outputs: Sequence[Any]) -> int:
    """Tokens that went through the model for these requests."""
    return sum(len(out.prompt_token_ids or ()) - (out.num_cached_tokens or 0) for out in outputs)
