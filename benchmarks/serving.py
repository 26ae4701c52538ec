"""What checking costs those who use the endpoint: a real `groundwire serve`, real HTTP clients, streaming.

    python benchmarks/serving.py [-o benchmarks/results/serving.json]

Runs come in pairs, checking on and off (`enabled: false`), same prompts, same seeds; which goes first alternates.
Whatever else the machine does hits both. Prompts have at most 64 tokens. A ratio is the median over the pairs.

- throughput: tokens of all clients over the time from the first request to the last answer's end
- decoding: tokens per second while every client is receiving
- first token: from the request to its first text
- verdict: from the last text to the finish chunk, which carries the verdict, beside the same with checking off. An
  answer that ends by itself ends one pass after its last text, checked or not. One that `max_tokens` cut off needs a
  pass more where it is checked, for its last token's activations.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from record import write
from served import Served, serve

PASSAGE = "The bridge opened on 14 May 1931. It is 642 metres long."
LONG = "Write a very long story about the bridge."
SHORT = "How long is the bridge?"
LIMIT = 64  # tokens of a prompt

Row = dict[str, Any]
Pair = tuple[list["Answer"], list["Answer"]]  # the same requests, checked and not


@dataclass(frozen=True)
class Answer:
    """One streamed answer. Times are in seconds, of the same clock; `texts`: when each piece of text came."""

    sent: float
    texts: tuple[float, ...]
    finished: float
    tokens: int
    finish_reason: str

    @property
    def first(self) -> float:
        return self.texts[0] - self.sent

    @property
    def gap(self) -> float:
        """A usual time between two texts."""
        return statistics.median(b - a for a, b in zip(self.texts, self.texts[1:], strict=False))

    @property
    def end(self) -> float:
        """From the last text to the finish chunk."""
        return self.finished - self.texts[-1]


def throughput(answers: Sequence[Answer]) -> float:
    """Tokens per second, from the first request to the last answer's end."""
    spent = max(a.finished for a in answers) - min(a.sent for a in answers)
    return sum(a.tokens for a in answers) / spent


def decoding(answers: Sequence[Answer]) -> float | None:
    """Tokens per second of all together, from when the last one began to when the first one ended; None where those do
    not overlap."""
    start, end = max(a.texts[0] for a in answers), min(a.texts[-1] for a in answers)
    if end <= start:
        return None
    # A text is a token, but for characters of several tokens.
    return sum(sum(start < at <= end for at in a.texts) * a.tokens / len(a.texts) for a in answers) / (end - start)


def compared(pairs: Sequence[Pair], measure: Callable[[Sequence[Answer]], float | None]) -> Row:
    """A measure with checking on and off: medians, and the median and the range of on over off, pair by pair.

    Pairs that have no such measure are left out; None where all are.
    """
    measured = [(measure(on), measure(off)) for on, off in pairs]
    found = [(a, b) for a, b in measured if a is not None and b is not None]
    if not found:
        return {"pairs": 0, "on": None, "off": None, "ratio": None, "range": None}
    on, off = zip(*found, strict=True)
    ratios = [a / b for a, b in found]
    return {
        "pairs": len(found),
        "on": statistics.median(on),
        "off": statistics.median(off),
        "ratio": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def middle(name: str) -> Callable[[Sequence[Answer]], float]:
    """The median of one of an answer's times, in milliseconds."""
    return lambda answers: 1000 * statistics.median(getattr(a, name) for a in answers)


async def ask(client: httpx.AsyncClient, question: str, *, checked: bool, tokens: int, seed: int | None) -> Answer:
    """Ask one question of the passage. Greedy without a seed, else at OpenAI's default temperature."""
    body: Row = {
        "model": client.headers["x-model"],
        "messages": [{"role": "user", "content": f"{PASSAGE}\n\n{question}"}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "hallucination": {"passages": [PASSAGE], "enabled": checked, "policy": "annotate"},
        **({"temperature": 0} if seed is None else {"temperature": 1, "seed": seed}),
    }
    texts, finished, reason, verdict, usage = list[float](), 0.0, "", None, Row()
    sent = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread()).decode()[:500]}")
        async for line in response.aiter_lines():
            now = time.perf_counter()
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                if choice["delta"].get("content"):
                    texts.append(now)
                if choice["finish_reason"]:
                    finished, reason, verdict = now, choice["finish_reason"], choice["hallucination"]
    if len(texts) < 2 or not usage or usage["prompt_tokens"] > LIMIT:
        raise RuntimeError(f"{len(texts)} texts, usage {usage}: expected an answer to at most {LIMIT} tokens")
    if (verdict is not None and verdict["status"] == "checked") != checked:
        raise RuntimeError(f"checking is {checked}, the verdict {verdict}")
    return Answer(sent, tuple(texts), finished, usage["completion_tokens"], reason)


class Bench:
    """Asks a server in pairs of runs."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def run(self, clients: int, question: str, *, tokens: int, seed: int | None, checked: bool) -> list[Answer]:
        seeds = [None if seed is None else seed + i for i in range(clients)]
        asked = (ask(self._client, question, checked=checked, tokens=tokens, seed=s) for s in seeds)
        return await asyncio.gather(*asked)

    async def pair(self, number: int, clients: int, question: str, *, tokens: int, greedy: bool = False) -> Pair:
        seed = None if greedy else 1000 * number
        answers = {}
        for checked in (True, False) if number % 2 == 0 else (False, True):
            answers[checked] = await self.run(clients, question, tokens=tokens, seed=seed, checked=checked)
        return answers[True], answers[False]


async def measure(server: Served, counts: Sequence[int], runs: int, tokens: int) -> Row:
    """All figures of a server."""
    async with httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        client.headers["x-model"] = (await client.get("/v1/models")).json()["data"][0]["id"]
        bench = Bench(client)
        for count in counts:  # warm-up
            await bench.pair(0, count, LONG, tokens=8)
        before, asked = server.metrics(), 0
        long: dict[int, list[Pair]] = {count: [] for count in counts}
        ends: dict[int, list[Pair]] = {count: [] for count in counts}
        for number in range(runs):
            for count in counts:
                long[count].append(await bench.pair(number, count, LONG, tokens=tokens))
                ends[count].append(await bench.pair(number, count, SHORT, tokens=64, greedy=True))
                ends[count].append(await bench.pair(number, count, LONG, tokens=16, greedy=True))
                asked += 3 * count
            print(f"{number + 1} of {runs} runs", flush=True)
        after = server.metrics()
    stage = 'groundwire_stage_seconds_{}{{stage="check"}}'
    spent, number = (after[stage.format(what)] - before.get(stage.format(what), 0) for what in ("sum", "count"))
    return {
        "throughput": {count: compared(pairs, throughput) for count, pairs in long.items()},
        "decoding": {count: compared(pairs, decoding) for count, pairs in long.items()},
        "first_token_ms": {count: compared(pairs, middle("first")) for count, pairs in long.items()},
        "verdict": [
            _verdict(count, reason, found)
            for count, pairs in ends.items()
            for reason in ("stop", "length")
            if (found := ended(pairs, reason))
        ],
        "answers_checked": asked,
        "check_ms_per_answer": 1000 * spent / number,
    }


def ended(pairs: Sequence[Pair], reason: str) -> list[tuple[Answer, Answer]]:
    """The answers, checked and not, that both ended for this reason."""
    found = [twice for on, off in pairs for twice in zip(on, off, strict=True)]
    return [twice for twice in found if all(answer.finish_reason == reason for answer in twice)]


def _verdict(clients: int, reason: str, found: Sequence[tuple[Answer, Answer]]) -> Row:
    on, off = zip(*found, strict=True)
    return {
        "clients": clients,
        "finish_reason": reason,
        "answers": len(found),
        "end_on_ms": middle("end")(on),
        "end_off_ms": middle("end")(off),
        "gap_ms": middle("gap")(on),
        "added_ms": statistics.median(1000 * (a.end - b.end) for a, b in found),
    }


def tables(found: Row) -> dict[str, list[Row]]:
    """The rows of the README's tables."""
    counts = list(found["throughput"])
    cost = [
        {
            "clients": count,
            "tokens/s, checked": found["throughput"][count]["on"],
            "tokens/s, not checked": found["throughput"][count]["off"],
            "ratio": found["throughput"][count]["ratio"],
            "range": found["throughput"][count]["range"],
            "ms to first token, checked": found["first_token_ms"][count]["on"],
            "not checked": found["first_token_ms"][count]["off"],
            "decoding tokens/s": found["decoding"][count]["on"],
            "times one client's": _times(found["decoding"][count]["on"], found["decoding"][counts[0]]["on"]),
        }
        for count in counts
    ]
    verdict = [
        {
            "clients": row["clients"],
            "answer ended by": {"stop": "itself", "length": "`max_tokens`"}[row["finish_reason"]],
            "answers": row["answers"],
            "ms from last text to verdict": row["end_on_ms"],
            "to the end, not checked": row["end_off_ms"],
            "added by the check": row["added_ms"],
            "ms between tokens": row["gap_ms"],
        }
        for row in found["verdict"]
    ]
    return {"serving": cost, "serving-verdict": verdict}


def _times(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value / base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="how many at once; 1 comes first")
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs")
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--fake", action="store_true", help="the fake engine instead of the model: tries the script")
    args = parser.parse_args()
    with serve("--max-batch", str(max(args.clients)), fake=args.fake) as server:
        found = asyncio.run(measure(server, args.clients, args.runs, args.tokens))
    shown = tables(found)
    for name, rows in shown.items():
        print(name, *rows, sep="\n")
    write(args.output, {"runs": args.runs, "tokens": args.tokens, "serving": found, "tables": shown})


if __name__ == "__main__":
    main()
