"""Many clients against a bounded queue, and clients that leave mid-stream: what breaks, what grows, what stays behind.

    python benchmarks/soak.py [-o benchmarks/results/soak.json]

Against a real `groundwire serve` in a process of its own:

1. Clients ask without a pause but the Retry-After of a 429: chats, streamed and not, and rows for /v1/detect. Every
   request has passages with a number of its own, and its verdict must be that of its own answer: scores for the tokens
   of the very text returned, spans of that text, evidence from its own passages, and no other request's number in it.
2. Streams are left after their first few chunks. Afterwards the server's tasks, slots, threads and files are counted.

The command fails where a status other than 200 and 429 came, a connection broke, an answer had another's verdict,
memory grew after the first third by more than a twentieth, or something was left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
from pairing import Tally, passages
from record import write
from served import Served, serve

KINDS = ("chat", "stream", "detect")
TOKENS = 24
GROWTH = 0.05  # of memory, from the first third's end on
LEAVERS = 6  # that are under way at once; fewer than the server generates together, so that none is refused
SETTLE = 60.0  # seconds for the server to notice that clients have left

Row = dict[str, Any]


class Client:
    """Asks a server one thing at a time."""

    def __init__(self, http: httpx.AsyncClient, model: str, tally: Tally) -> None:
        self._http, self._model, self._tally = http, model, tally

    async def until(self, deadline: float, first: int) -> None:
        """Ask until `deadline`, each kind in turn; wait as long as a 429 says."""
        turn = first
        while time.monotonic() < deadline:
            try:
                pause = await self._ask(KINDS[turn % len(KINDS)])
            except httpx.HTTPError as error:
                self._tally.statuses[type(error).__name__] += 1
                pause = 1.0
            turn += 1
            await asyncio.sleep(min(pause * (0.5 + random.random()), max(0.0, deadline - time.monotonic())))

    async def leave(self, after: int) -> None:
        """Begin a stream and close the connection after some chunks."""
        lines = 0
        body = self._chat(self._tally.number(), stream=True) | {"max_tokens": 64}
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            self._tally.statuses[str(response.status_code)] += 1
            async with aclosing(response.aiter_lines()) as received:
                async for line in received:
                    lines += line.startswith("data: ")
                    if lines > after:
                        return

    async def _ask(self, kind: str) -> float:
        """Ask once and check what comes; the seconds to wait before the next time."""
        number = self._tally.number()
        if kind == "detect":
            answer = f"The bridge {number} opened in {random.randrange(1800, 2000)}."
            row = {"id": number, "context": passages(number), "question": "When did it open?", "response": answer}
            response = await self._http.post("/v1/detect", json=row | {"hallucination": {"tokens": True}})
        else:
            response = await self._http.post("/v1/chat/completions", json=self._chat(number, stream=kind == "stream"))
        self._tally.statuses[str(response.status_code)] += 1
        if response.status_code != 200:
            return float(response.headers.get("retry-after", 1))
        if kind == "detect":
            found = response.json()
            if found["id"] != number:
                self._tally.problems.append(f"{number}: row {found['id']}")
            self._tally.answer(number, answer, found["hallucination"])
        elif kind == "stream":
            self._streamed(number, response.text)
        else:
            choice = response.json()["choices"][0]
            self._tally.answer(number, choice["message"]["content"], choice["hallucination"])
        return 0.0

    def _streamed(self, number: str, events: str) -> None:
        data = [line.removeprefix("data: ") for line in events.splitlines() if line.startswith("data: ")]
        chunks = [json.loads(part) for part in data if part != "[DONE]"]
        if not data or data[-1] != "[DONE]" or any("error" in chunk for chunk in chunks):
            self._tally.problems.append(f"{number}: the stream ended with {data[-1:]}")
            return
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        self._tally.answer(number, text, choices[-1]["hallucination"])

    def _chat(self, number: str, *, stream: bool) -> Row:
        given = passages(number)
        texts = "\n\n".join(passage["text"] for passage in given)
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": f"{texts}\n\nTell me about the bridge {number}."}],
            "max_tokens": TOKENS,
            "stream": stream,
            "hallucination": {"passages": given, "policy": "annotate", "tokens": True},
        }


async def crowd(server: Served, http: httpx.AsyncClient, model: str, clients: int, seconds: float) -> Row:
    """`clients` at once for `seconds`."""
    tally, start = Tally(), time.monotonic()
    work = asyncio.gather(*(Client(http, model, tally).until(start + seconds, i) for i in range(clients)))
    memory: list[tuple[float, int]] = []
    while not work.done():
        memory.append((time.monotonic() - start, server.memory))
        await asyncio.wait([work], timeout=min(1.0, seconds / 30))
    await work
    settled = statistics.median(m for at, m in memory if 0.25 * seconds <= at <= 0.4 * seconds)
    last = statistics.median(m for at, m in memory if at >= 0.85 * seconds)
    return {
        "clients": clients,
        "seconds": time.monotonic() - start,
        "statuses": dict(tally.statuses),
        "answers": sum(tally.checked.values()),
        "checked": dict(tally.checked),
        "hold_their_number": tally.numbered,
        "problems": tally.problems,
        "memory_after_a_third": settled,
        "memory_at_the_end": last,
        "growth": last / settled - 1,
        "memory": [[round(at, 1), value] for at, value in memory],
    }


async def leavers(server: Served, model: str, number: int) -> Row:
    """`number` streams that are left; what the server holds before and afterwards."""
    tally, places = Tally(), asyncio.Semaphore(LEAVERS)

    async def one(after: int) -> None:
        async with places, _http(server) as http:
            await Client(http, model, tally).leave(after)

    await asyncio.gather(*(one(1) for _ in range(LEAVERS)))  # what is made once has been made
    before = await settled(server, None)
    await asyncio.gather(*(one(i % 5) for i in range(number)))
    return {
        "disconnects": number,
        "statuses": dict(tally.statuses),
        "before": before,
        "after": await settled(server, before),
    }


async def settled(server: Served, before: Mapping[str, int] | None) -> dict[str, int]:
    """What the server holds, once no answer is under way (and no more is held than `before`), or when time is up."""
    deadline = time.monotonic() + SETTLE
    while True:
        metrics = await asyncio.to_thread(server.metrics)
        held = {name: int(metrics[f'groundwire_queue{{state="{name}"}}']) for name in ("active", "waiting")}
        held |= server.held()
        quiet = not held["active"] and not held["waiting"]
        if (quiet and (before is None or not left_behind(before, held))) or time.monotonic() > deadline:
            return held
        await asyncio.sleep(0.2)


def left_behind(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """What there is more of than before."""
    return [f"{name}: {before[name]} before, {after[name]} after" for name in before if after[name] > before[name]]


def failures(found: Row) -> list[str]:
    """Why the soak failed, if it did."""
    crowd_, leavers_ = found["crowd"], found["leavers"]
    wrong = [f"{n} times {s}" for row in (crowd_, leavers_) for s, n in row["statuses"].items() if s not in _FINE]
    if crowd_["growth"] > GROWTH:
        wrong.append(f"memory grew by {crowd_['growth']:.1%}")
    if not crowd_["checked"].get("checked"):
        wrong.append("no answer was checked")
    return wrong + crowd_["problems"][:10] + left_behind(leavers_["before"], leavers_["after"])


_FINE = ("200", "429")


def tables(found: Row) -> dict[str, list[Row]]:
    """The rows of the README's tables."""
    crowd_, leavers_ = found["crowd"], found["leavers"]
    statuses = crowd_["statuses"]
    row = {
        "clients": crowd_["clients"],
        "seconds": round(crowd_["seconds"]),
        "status 200": statuses.get("200", 0),
        "429": statuses.get("429", 0),
        "other": sum(n for status, n in statuses.items() if status not in _FINE),
        "answers checked": crowd_["checked"].get("checked", 0),
        "with another's verdict": len(crowd_["problems"]),
        "memory after a third, GB": crowd_["memory_after_a_third"] / 1e9,
        "at the end": crowd_["memory_at_the_end"] / 1e9,
    }
    names = ("tasks", "active", "threads", "files")
    left = {"streams left": leavers_["disconnects"]}
    left |= {f"{name} before, after": [leavers_[when][name] for when in ("before", "after")] for name in names}
    return {"soak": [row], "soak-disconnects": [left]}


def _http(server: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=600, limits=httpx.Limits(max_connections=None))


async def soak(server: Served, clients: int, seconds: float, disconnects: int) -> Row:
    async with _http(server) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        found = {"crowd": await crowd(server, http, model, clients, seconds)}
    return found | {"leavers": await leavers(server, model, disconnects)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "soak.json")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--disconnects", type=int, default=500)
    parser.add_argument("--max-queue", type=int, default=64, help="the server's limit of waiting requests")
    parser.add_argument("--fake", action="store_true", help="the fake engine instead of the model: tries the script")
    args = parser.parse_args()
    with serve("--max-queue", str(args.max_queue), fake=args.fake) as server:
        found = asyncio.run(soak(server, args.clients, args.seconds, args.disconnects))
    shown, wrong = tables(found), failures(found)
    for name, rows in shown.items():
        print(name, *rows, sep="\n")
    write(args.output, {"max_queue": args.max_queue, "soak": found, "failures": wrong, "tables": shown})
    if wrong:
        sys.exit("\n".join(["the soak failed:", *wrong]))


if __name__ == "__main__":
    main()
