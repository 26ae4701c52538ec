"""What a verdict costs while generating: time in encoding, folding and the additive head over time in the forward pass.

    python benchmarks/verdict_cost.py [-o benchmarks/results/verdict-cost.json]

Both are taken in the same pass, so the machine's noise hits both; the median over runs is reported, by batch size.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from pathlib import Path

from record import write

from groundwire.demo import QUESTIONS
from groundwire.detector import Detector
from groundwire.prompts import grounded_messages
from groundwire.types import Passage, Request, Sampling

TOKENS = 48


def ratio(detector: Detector, batch: int) -> tuple[float, float]:
    """Check over forward time, and milliseconds of check per token, of one batch of generations."""
    requests = [
        Request(
            str(i),
            grounded_messages(question.text, [Passage(p) for p in question.passages]),
            Sampling(max_tokens=TOKENS, temperature=1.0, seed=i),
        )
        for i, question in zip(range(batch), itertools.cycle(QUESTIONS), strict=False)
    ]
    readouts = [s.readout for _, s in detector.engine.generate(requests, detector.artifact.scorer) if s.readout]
    check, forward = (sum(getattr(r, name) for r in readouts) for name in ("check_seconds", "forward_seconds"))
    return check / forward, 1000 * check / sum(r.rows for r in readouts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "verdict-cost.json")
    parser.add_argument("--artifact", help="detector folder; the embedded default where left out")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    detector = Detector.from_pretrained(args.artifact)
    ratio(detector, 1)  # warm-up
    rows = []
    for batch in args.batches:
        runs = [ratio(detector, batch) for _ in range(args.runs)]
        rows.append(
            {
                "batch": batch,
                "runs": args.runs,
                "share_of_forward": statistics.median(r for r, _ in runs),
                "share_of_forward_range": [min(r for r, _ in runs), max(r for r, _ in runs)],
                "milliseconds_per_token": statistics.median(ms for _, ms in runs),
            }
        )
        print(rows[-1])
    shown = [
        {
            "requests at once": row["batch"],
            "encoding and head / forward pass": row["share_of_forward"],
            "range": row["share_of_forward_range"],
            "ms per token": row["milliseconds_per_token"],
        }
        for row in rows
    ]
    write(args.output, {"terms": detector.artifact.scorer.terms, "verdict_cost": rows, "tables": {"cost": shown}})


if __name__ == "__main__":
    main()
