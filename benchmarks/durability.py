"""What `groundwire score` survives and what it costs: kill -9 at any moment, and a million rows.

    python benchmarks/durability.py ROWS.jsonl [--rows 500] [--kills 20] [--longest 60]
        [--overhead 10000 100000 1000000] [-o benchmarks/results/durability.json]

1. The first rows of ROWS.jsonl are scored by the embedded detector without disturbance, then again in a process that is
   killed (SIGKILL) at moments drawn evenly over the time the first run took, or the first `--longest` seconds, resumed
   after each, and at last left alone. After every kill the rows on disk must be a beginning of the undisturbed output
   and no fewer than before; in the end both outputs, and what stands beside them, must be equal to the byte.
2. Rows made up on the spot (a question of 1,500 characters for five answers) are scored by the public fake detector,
   each of 1,000 distinct answers once, for its time is not what is measured: time outside of the detector per row, and
   peak memory of the process, at several numbers of rows.

Every run is a process of its own. The command fails where a row was lost, added twice or changed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write

FAKE = """
import json, resource, sys, time
from groundwire.batch.score import score_file
from groundwire.engines.fake import fake_detector

detector, inside, known = fake_detector(), 0.0, {}
scored = detector.score_batch
def timed(examples, **given):
    global inside
    start = time.perf_counter()
    new = list({e.response: e for e in examples if e.response not in known}.values())
    known.update(zip([e.response for e in new], scored(new, **given), strict=True))
    found = [known[e.response] for e in examples]
    inside += time.perf_counter() - start
    return found
detector.score_batch = timed
summary = score_file(detector, sys.argv[1], sys.argv[2], progress=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"rows": summary.rows, "seconds": summary.seconds, "detector_seconds": inside, "peak_bytes": peak}))
"""

NEWLINE = b"\n"

Figures = dict[str, Any]


def kills(source: Path, folder: Path, number: int, longest: float, seed: int) -> Figures:
    """Kill a run so many times and compare what it leaves with an undisturbed one."""
    whole, target = folder / "whole.jsonl", folder / "out.jsonl"
    start = time.monotonic()
    subprocess.run(command(source, whole), check=True, stderr=subprocess.DEVNULL)
    undisturbed = time.monotonic() - start
    wanted, moments = whole.read_bytes(), random.Random(seed)
    problems: list[str] = []
    killed, kept, finished, with_rows = 0, 0, 0, 0
    while killed < number:
        process = subprocess.Popen(command(source, target), stderr=subprocess.DEVNULL)
        try:
            code = process.wait(moments.uniform(0, min(undisturbed, longest)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        killed += code == -signal.SIGKILL
        if code == 0:  # nothing is left to be killed: begin anew
            finished += 1
            problems += compared(whole, target)
            for path in folder.glob("out.jsonl*"):
                path.unlink()
            kept = 0
            continue
        if code != -signal.SIGKILL:
            raise SystemExit(f"durability: the run failed with exit code {code}")
        partial = folder / "out.jsonl.partial"
        rows = whole_lines(partial.read_bytes() if partial.exists() else b"")
        if not wanted.startswith(rows):
            problems.append(f"after kill {killed} the rows on disk are not those of the undisturbed run")
        if rows.count(NEWLINE) < kept:
            problems.append(f"after kill {killed} {kept - rows.count(NEWLINE)} rows were lost")
        kept = rows.count(NEWLINE)
        with_rows += kept > 0
    subprocess.run(command(source, target), check=True, stderr=subprocess.DEVNULL)
    problems += compared(whole, target)
    return {
        "rows": wanted.count(NEWLINE),
        "kills": killed,
        "kills_with_rows_on_disk": with_rows,
        "outputs": finished + 1,
        "undisturbed_seconds": undisturbed,
        "problems": problems,
    }


def whole_lines(data: bytes) -> bytes:
    """The lines of `data` up to the last that ended."""
    return data[: data.rfind(NEWLINE) + 1]


def compared(whole: Path, target: Path) -> list[str]:
    """What differs between two outputs and what stands beside them."""
    pairs = [(whole, target), (beside(whole), beside(target))]
    found = [f"{other.name} is not {one.name}" for one, other in pairs if one.read_bytes() != other.read_bytes()]
    return found + [f"{path.name} was left" for path in target.parent.glob("out.jsonl.[ap]*")]


def beside(target: Path) -> Path:
    return target.with_name(target.name + ".run")


def command(source: Path, target: Path) -> list[str]:
    """The command a user would give; exit code 1 would mean rows that cannot be read."""
    return [sys.executable, "-m", "groundwire", "score", str(source), "-o", str(target)]


def overhead(rows: int, folder: Path) -> Figures:
    """Score so many made-up rows with the fake detector in a process of its own."""
    source = folder / f"{rows}.jsonl"
    words = [f"word{i}" for i in range(2000)]
    with open(source, "w", encoding="utf-8") as file:
        for i in range(rows):
            if i % 5 == 0:
                prompt = " ".join(random.Random(i).choices(words, k=190))
            response = " ".join(random.Random(-(i % 1000) - 1).choices(words, k=8))
            file.write(json.dumps({"id": i, "prompt": prompt, "response": response, "generator": "abc"[i % 3]}) + "\n")
    target = folder / f"{rows}-out.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FAKE, str(source), str(target)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: Figures = json.loads(done.stdout)
    found["milliseconds_outside"] = 1000 * (found["seconds"] - found["detector_seconds"]) / rows
    found["input_bytes"], found["output_bytes"] = source.stat().st_size, target.stat().st_size
    for path in (source, target, beside(target)):
        path.unlink()
    print(found, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="ROWS.jsonl")
    parser.add_argument("--rows", type=int, default=500, help="of ROWS.jsonl")
    parser.add_argument("--kills", type=int, default=20, help="0 leaves the first part out")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds that a run to be killed is given at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overhead", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], metavar="ROWS")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results" / "durability.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "rows.jsonl"
        with open(args.source, encoding="utf-8") as lines:
            source.write_text("".join(itertools.islice(lines, args.rows)), encoding="utf-8")
        killed: Figures = {}
        if args.kills:
            killed = kills(source, folder, args.kills, args.longest, args.seed)
            killed |= {"data": args.source.name, "seed": args.seed}
            print(killed, flush=True)
        costs = [overhead(rows, folder) for rows in args.overhead]
    tables = {
        "durability": [
            {
                "rows": killed["rows"],
                "kills": killed["kills"],
                "of them with rows on disk": killed["kills_with_rows_on_disk"],
                "outputs in the end": killed["outputs"],
                "of them not equal to the byte, or short of rows after a kill": len(killed["problems"]),
            }
        ]
        if killed
        else [],
        "overhead": [
            {
                "rows": f"{each['rows']:,}",
                "outside of the detector, ms a row": each["milliseconds_outside"],
                "peak memory, MB": round(each["peak_bytes"] / 1e6),
            }
            for each in costs
        ],
    }
    write(args.output, {"kills": killed, "overhead": costs, "tables": tables})
    if killed.get("problems"):
        sys.exit("durability: " + "; ".join(killed["problems"]))


if __name__ == "__main__":
    main()
