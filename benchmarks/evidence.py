"""Does evidence point at the text a checker should compare a marked span with? Judged by reading, and what it costs.

    python benchmarks/evidence.py ROWS.jsonl ... [--read FILE] [-o benchmarks/results/evidence-judged.json]

Draws 30 labelled unfaithful spans of each file (one of each of 30 groups, by a fixed seed) and finds the evidence of
each in the row's prompt, as `score` does for such rows. --read writes each span in its answer, its prompt and what was
pointed at, for a person to read. The results file then lists the spans; the person writes each one's verdict, "right"
or "wrong", and why. A run with verdicts adds the share of right ones. Where the pointer has changed since the verdict,
that verdict is dropped and has to be given again. No text of the data is written to the results.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

from groundwire import Passage
from groundwire.evidence import EvidenceIndex

SEED, SPANS, WORDS = 20261123, 30, 20_000
RULE = (
    "Right: what is pointed at is the text of the prompt that a checker should compare the span with: what the span "
    "contradicts, distorts or overstates, or, where the span only adds something, what it adds to. A piece counts as "
    "right only if it suffices for seeing what is wrong; its neighbour would not do. Where several pieces serve, any "
    "of them is right. Null is right where the passages hold nothing about what the span says, and only there. "
    "Anything else is wrong, instructions and questions of the prompt included. Doubtful cases count as wrong. Each "
    "span was judged once, by one reader, with the whole prompt in view; nothing was changed afterwards."
)


def draw(path: Path) -> list[tuple[dict[str, Any], dict[str, int]]]:
    """Rows and spans: one span of each of 30 groups, by the seed alone."""
    groups: dict[str, list[tuple[dict[str, Any], dict[str, int]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for span in row["spans"] or ():
            groups.setdefault(row["group"], []).append((row, span))
    names, rng = sorted(groups), random.Random(SEED)
    rng.shuffle(names)
    return [rng.choice(groups[name]) for name in names[:SPANS]]


def point(row: dict[str, Any], span: dict[str, int]) -> dict[str, Any]:
    """What is on record of one span: where it is, what was pointed at, room for a verdict; and, apart, the text."""
    found = EvidenceIndex([Passage(row["prompt"])]).find(row["response"], span["start"], span["end"])
    pointer = found and {key: found[key] for key in ("start", "end", "similarity")}
    return {"id": row["id"], "start": span["start"], "end": span["end"], "pointer": pointer, "verdict": None, "why": ""}


def shown(row: dict[str, Any], item: dict[str, Any]) -> str:
    response, start, end, pointer = row["response"], item["start"], item["end"], item["pointer"]
    marked = f"{response[:start]}[[{response[start:end]}]]{response[end:]}"
    text = pointer and row["prompt"][pointer["start"] : pointer["end"]]
    return f"##### {row['id']} {start} {end}\n{row['prompt']}\n>>> ANSWER: {marked}\n>>> POINTER: {pointer}\n{text}\n\n"


def with_verdicts(items: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The items with the verdicts on record for the same pointer."""
    known = json.loads(path.read_text(encoding="utf-8"))["judged"] if path.exists() else []
    verdicts = {json.dumps([old["id"], old["start"], old["end"], old["pointer"]]): old for old in known}
    keys = (json.dumps([item["id"], item["start"], item["end"], item["pointer"]]) for item in items)
    return [verdicts.get(key, item) for key, item in zip(keys, items, strict=True)]


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z = 1.959964
    middle = (right + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * math.sqrt(right * (count - right) / count + z * z / 4)
    return middle - half, middle + half


def figures(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and the share of right ones; empty until every item has its verdict."""
    if not items or any(item["verdict"] not in ("right", "wrong") for item in items):
        return {}
    right = [item for item in items if item["verdict"] == "right"]
    return {
        "spans": len(items),
        "right": len(right),
        "share": len(right) / len(items),
        "interval": wilson(len(right), len(items)),
        "null": sum(item["pointer"] is None for item in items),
        "null and right": sum(item["pointer"] is None for item in right),
    }


def cost(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Processor milliseconds of an index of 20,000 words of prompts, and of a span in it: medians."""
    prompts = sorted({row["prompt"] for row in rows})
    passages: list[Passage] = []
    words = 0
    while words < WORDS:
        prompt = prompts[len(passages) % len(prompts)]
        passages.append(Passage(prompt, id=str(len(passages))))
        words += len(prompt.split())
    builds, finds = [], []
    for _ in range(7):
        start = time.process_time()
        index = EvidenceIndex(passages)
        builds.append(time.process_time() - start)
    for row in rows:
        for span in row["spans"] or ():
            start = time.process_time()
            index.find(row["response"], span["start"], span["end"])
            finds.append(time.process_time() - start)
    return {
        "words": words,
        "index_ms": 1000 * statistics.median(builds),
        "span_ms": 1000 * statistics.median(finds),
        "span_ms_95": 1000 * statistics.quantiles(finds, n=20)[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--read", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "evidence-judged.json")
    args = parser.parse_args()
    drawn = {path.stem: draw(path) for path in args.rows}
    pairs = [pair for found in drawn.values() for pair in found]
    items = with_verdicts([point(row, span) for row, span in pairs], args.output)
    if args.read:
        texts = [shown(row, item) for (row, _), item in zip(pairs, items, strict=True)]
        args.read.write_text("".join(texts), encoding="utf-8")
    table = []
    for name, found in {**drawn, "both": pairs}.items():
        ids = {row["id"] for row, _ in found}
        if counted := figures([item for item in items if item["id"] in ids]):
            table.append({"data set": name, **counted})
    spent = cost([row for row, _ in pairs])
    from record import write  # beside this file: importable where it is run as a script

    record = {"rule": RULE, "seed": SEED, "cost": spent, "tables": {"evidence": table}, "judged": items}
    write(args.output, record)


if __name__ == "__main__":
    main()
