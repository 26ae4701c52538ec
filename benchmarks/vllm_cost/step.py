"""Inside the worker: its own timer around the pass and around what follows it, and the calls that fetch readouts.

vLLM runs offline, with our worker. Every request is followed, half of them with running scores. In the same engine the
same requests run once more, not followed: what that leaves is all that following costs, what a GPU does beside the
timers' thread included.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vllm_cost.asks import Ask, Asks, Load
from vllm_cost.figures import Row, compared, quantile
from vllm_cost.flags import options_of

from groundwire.engines.vllm.engine import VllmEngine, first_of
from groundwire.engines.vllm.wire import Take, Wish
from groundwire.prompts import render


@dataclass(frozen=True)
class Ran:
    """One batch. stats: the worker's, see `Following.groundwire_stats`. calls: seconds of each call for a readout, on
    the caller's clock."""

    speed: float
    stats: dict[str, float]
    calls: tuple[float, ...] = ()

    @property
    def share(self) -> float:
        """Of a step's time, what capturing takes."""
        return self.stats["capture"] / (self.stats["pass"] + self.stats["capture"])

    def step_ms(self, what: str) -> float:
        """Milliseconds of a step in `pass` or `capture`."""
        return 1000 * self.stats[what] / self.stats["steps"]


class Steps:
    """An engine, and batches in it."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine, self._llm = engine, engine.llm
        self._first = self._ask("groundwire_begin")["block"]

    def run(self, asks: Sequence[Ask], *, followed: bool) -> Ran:
        """Answer all of them at once. Raises RuntimeError where a readout is missing."""
        from vllm import SamplingParams, TokensPrompt

        wishes = [
            Wish(uuid.uuid4().hex, running=(self._first + i,) if i % 2 else ()) if followed else None
            for i in range(len(asks))
        ]
        params = [
            SamplingParams(
                max_tokens=one.tokens, ignore_eos=True, temperature=0, extra_args=wish.to_args() if wish else None
            )
            for one, wish in zip(asks, wishes, strict=True)
        ]
        prompts = [TokensPrompt(prompt_token_ids=self._ids(one)) for one in asks]
        self._llm.reset_prefix_cache()  # the same requests come twice
        self._ask("groundwire_stats")
        start = time.perf_counter()
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - start
        tokens = [len(out.outputs[0].token_ids) for out in outputs]
        calls = [self._take(wish, count) for wish, count in zip(wishes, tokens, strict=True) if wish]
        stats = self._ask("groundwire_stats")
        if stats["failed"]:
            raise RuntimeError(f"{stats['failed']} steps were not followed: see vLLM's messages above")
        return Ran(sum(tokens) / seconds, stats, tuple(calls))

    def _take(self, wish: Wish, tokens: int) -> float:
        """Seconds of one call. The last token was never an input, so it has no row."""
        start = time.perf_counter()
        found = self._ask("groundwire_take", [asdict(Take(wish.key, 0, tokens - 1))], [])
        seconds = time.perf_counter() - start
        if found[0] is None:
            raise RuntimeError("the worker has no rows of an answer")
        return seconds

    def _ask(self, method: str, *args: Any) -> Any:
        return first_of(self._llm.collective_rpc(method, args=args))

    def _ids(self, one: Ask) -> list[int]:
        return render(self._engine.tokenizer, [{"role": "user", "content": one.content}])


def measure(
    model: str,
    detector: Path | None,
    flags: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    *,
    prompt: int,
    answer: int,
) -> Row:
    """All figures of `--step`: by batch size, over the rounds; which of the two ways goes first alternates."""
    import vllm

    engine = VllmEngine.open(detector, model=model, **options_of(flags))
    asks, steps, found = Asks(engine.tokenizer, prompt=prompt, answer=answer), Steps(engine), Row()
    for batch in batches:
        load, ran = Load(batch, streams=batch), {True: list[Ran](), False: list[Ran]()}
        steps.run(asks.next(load), followed=True)  # warm-up
        for number in range(rounds):
            first, same = number % 2 == 0, asks.next(load)
            for followed in (first, not first):
                ran[followed].append(steps.run(same, followed=followed))
            print(f"batch {batch}: {number + 1} of {rounds} rounds", flush=True)
        found[str(batch)] = _figures(ran[True], ran[False])
    engine.llm.llm_engine.engine_core.shutdown()
    return {"vllm": vllm.__version__, "dtype": engine.dtype, "steps": found}


def _figures(followed: Sequence[Ran], plain: Sequence[Ran]) -> Row:
    shares, calls = [one.share for one in followed], [1000 * s for one in followed for s in one.calls]
    takes = [1000 * one.stats["taking"] / one.stats["takes"] for one in followed]
    return {
        "steps": sum(one.stats["steps"] for one in followed),
        "share_of_step": statistics.median(shares),
        "share_of_step_range": [min(shares), max(shares)],
        "pass_ms": statistics.median(one.step_ms("pass") for one in followed),
        "capture_ms": statistics.median(one.step_ms("capture") for one in followed),
        "take_ms": statistics.median(takes),
        "take_call_ms_p50": statistics.median(calls),
        "take_call_ms_p99": quantile(calls, 0.99),
        "tokens_per_second": compared([one.speed for one in followed], [one.speed for one in plain]),
    }


def tables(model: str, device: str, modes: Row) -> dict[str, list[Row]]:
    """The rows of the documentation's table."""
    return {
        "serving-overhead-step": [
            {
                "model": model,
                "device": device,
                "vLLM runs": mode,
                "batch": int(batch),
                "capture / step": one["share_of_step"],
                "range": one["share_of_step_range"],
                "ms a step, pass": one["pass_ms"],
                "capture": one["capture_ms"],
                "ms a readout, in the worker": one["take_ms"],
                "with the call": one["take_call_ms_p50"],
                "p99": one["take_call_ms_p99"],
                "tokens/s, followed / not": one["tokens_per_second"]["ratio"],
                "95 % interval": one["tokens_per_second"]["interval"],
            }
            for mode, found in modes.items()
            for batch, one in found["steps"].items()
        ]
    }
