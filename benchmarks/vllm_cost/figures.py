"""From pairs of runs to figures: medians, the ratio of each pair, and how far chance could have moved it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vllm_cost.asks import ITSELF, LENGTH, Load
from vllm_cost.streams import Heard

DRAWS = 10_000
COVERED = 0.95

Row = dict[str, Any]
Pair = tuple[Sequence[Heard], Sequence[Heard]]  # the same requests of one round: with verdicts, and stock


def throughput(heard: Sequence[Heard]) -> float:
    """Output tokens a second, from the first request to the last answer's end, its verdict included."""
    spent = max(one.finished for one in heard) - min(one.sent for one in heard)
    return sum(one.tokens for one in heard) / spent


def quantile(values: Sequence[float], share: float) -> float:
    """The value that a share of all values does not exceed, between two of them where it falls there."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def first_ms(share: float) -> Callable[[Sequence[Heard]], float]:
    """Milliseconds from a request to its first text."""
    return lambda heard: 1000 * quantile([one.first for one in heard], share)


def gap_ms(share: float) -> Callable[[Sequence[Heard]], float]:
    """Milliseconds between two texts of an answer, over all answers."""
    return lambda heard: 1000 * quantile([gap for one in heard for gap in one.gaps], share)


def end_ms(heard: Sequence[Heard]) -> float:
    """Milliseconds from the last text to the end, the median answer's."""
    return 1000 * statistics.median(one.end for one in heard)


MEASURES: Mapping[str, Callable[[Sequence[Heard]], float]] = {
    "tokens_per_second": throughput,
    "first_token_ms_p50": first_ms(0.5),
    "first_token_ms_p99": first_ms(0.99),
    "between_tokens_ms_p50": gap_ms(0.5),
    "between_tokens_ms_p99": gap_ms(0.99),
    "end_ms": end_ms,
}


def interval(values: Sequence[float], *, seed: int = 0) -> list[float]:
    """A 95 % bootstrap interval of the median: rounds drawn with replacement. Of a few rounds it is their range."""
    chance = random.Random(seed)
    drawn = [statistics.median(chance.choices(values, k=len(values))) for _ in range(DRAWS)]
    return [quantile(drawn, (1 - COVERED) / 2), quantile(drawn, (1 + COVERED) / 2)]


def compared(on: Sequence[float], off: Sequence[float]) -> Row:
    """A measure of paired rounds: medians of both sides, and of the rounds' ratios, with its interval.

    added: the median of the rounds' differences.
    """
    pairs = list(zip(on, off, strict=True))
    ratios = [a / b for a, b in pairs]
    return {
        "on": statistics.median(on),
        "off": statistics.median(off),
        "ratio": statistics.median(ratios),
        "interval": interval(ratios),
        "added": statistics.median(a - b for a, b in pairs),
        "ratios": ratios,
    }


def measured(pairs: Sequence[Pair]) -> Row:
    """All measures of one load."""
    return {
        name: compared([measure(on) for on, _ in pairs], [measure(off) for _, off in pairs])
        for name, measure in MEASURES.items()
    }


def about(load: Load, pairs: Sequence[Pair]) -> Row:
    """What the load was; tokens are those of the median request."""
    asked = [one for on, _ in pairs for one in on]
    return {
        "load": load.shown,
        "ended_by": load.ends,
        "requests": len(asked),
        "prompt_tokens": statistics.median(one.prompt_tokens for one in asked),
        "answer_tokens": statistics.median(one.tokens for one in asked),
    }


def tables(model: str, device: str, modes: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows of the documentation's tables. modes: `eager` and `graphs`, each with its loads and its memory."""
    head = {"model": model, "device": device}
    every = [({**head, "vLLM runs": mode}, found) for mode, all_ in modes.items() for found in all_["loads"]]
    return {
        "serving-overhead": [{**first, **_speed(found)} for first, found in every],
        "serving-overhead-latency": [{**first, **_latency(found)} for first, found in every],
        "serving-overhead-memory": [
            {**head, "vLLM runs": mode, **_memory(all_["memory_bytes"])} for mode, all_ in modes.items()
        ],
    }


def _load(found: Row) -> Row:
    ended = {LENGTH: "`max_tokens`", ITSELF: "themselves"}[found["ended_by"]]
    return {"load": found["load"], "answers end by": ended}


def _speed(found: Row) -> Row:
    speed = found["tokens_per_second"]
    return {
        **_load(found),
        "prompt / answer tokens": f"{found['prompt_tokens']:g} / {found['answer_tokens']:g}",
        "tokens/s with verdicts": speed["on"],
        "without": speed["off"],
        "ratio": speed["ratio"],
        "95 % interval": speed["interval"],
    }


def _latency(found: Row) -> Row:
    row = _load(found)
    for name, shown in (
        ("first_token_ms_p50", "ms to first token"),
        ("between_tokens_ms_p50", "between tokens"),
        ("between_tokens_ms_p99", "between tokens, p99"),
    ):
        row[f"{shown}, with verdicts"], row[f"{shown}, without"] = found[name]["on"], found[name]["off"]
    row["end later by"] = found["end_ms"]["added"]
    return row


def _memory(found: Mapping[str, Mapping[str, int | None]]) -> Row:
    row: Row = {}
    for kind, shown in (("gpu", "GPU memory, GB"), ("resident", "resident memory, GB")):
        for side, words in (("on", "with verdicts"), ("off", "without")):
            value = found[side][kind]
            row[f"{shown}, {words}"] = None if value is None else value / 1e9
    return row
