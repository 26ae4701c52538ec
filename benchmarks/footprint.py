"""Peak memory of `groundwire score`, and how long loading the cached model and the artifact takes.

    python benchmarks/footprint.py ROWS.jsonl [-o benchmarks/results/footprint.json]

Scoring and loading run in processes of their own: `score` on the first 500 rows, peak resident memory as the operating
system counts it; loading five times, the time from after the imports to a detector that is ready.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import write

ROWS = 500
LOAD = """
import time
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
from groundwire import Detector
start = time.perf_counter()
Detector.from_pretrained()
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "footprint.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "rows.jsonl"), Path(folder, "scored.jsonl")
        with open(args.rows, encoding="utf-8") as lines:
            source.write_text("".join(itertools.islice(lines, ROWS)), encoding="utf-8")
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "groundwire", "score", str(source), "-o", str(target)], check=True)
        seconds = time.perf_counter() - start
        rows = len(target.read_text(encoding="utf-8").splitlines())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    loads = [float(subprocess.check_output([sys.executable, "-c", LOAD], text=True).split()[-1]) for _ in range(5)]
    figures = {
        "rows": rows,
        "data": args.rows.name,
        "score_seconds": seconds,
        "peak_bytes": peak,
        "load_seconds": statistics.median(loads),
        "load_seconds_range": [min(loads), max(loads)],
    }
    print(figures)
    row = {
        "rows scored": rows,
        "peak memory, GB": peak / 1e9,
        "rows per second, start included": rows / seconds,
        "loading model and detector, s": figures["load_seconds"],
    }
    write(args.output, {"footprint": figures, "tables": {"footprint": [row]}})


if __name__ == "__main__":
    main()
