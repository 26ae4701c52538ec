"""What the checking reader costs beside the model's own reading, in one run, by turns.

    python benchmarks/checking_cost.py -o benchmarks/results/checking_cost.json

Replays: the same answers (benchmarks/everyday) by both readings, alternating; the ratio of the median times. After a
generation: what reading the answer once more takes behind the prompt's kept keys and values, and what it would take
with the prompt read again.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from time import perf_counter

import click

from groundwire.detector import DEFAULT_ARTIFACT, Detector
from groundwire.engines.base import Asked
from groundwire.errors import GroundwireError
from groundwire.prompts import rendered
from groundwire.training.data import read_labelled
from groundwire.types import Request, Sampling

EVERYDAY = Path(__file__).parent / "everyday" / "rows.jsonl"


@click.command()
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--rounds", default=5, show_default=True)
@click.option("--rows", default=60, show_default=True)
@click.option("--answers", default=6, show_default=True, help="Answers to generate.")
def main(output: Path, rounds: int, rows: int, answers: int) -> None:
    """Measure and write."""
    import record  # beside this script

    detector = Detector.from_pretrained(reading="checking")
    own = Detector.from_pretrained(engine=detector.engine, reading="own")
    checking = detector.checking
    if checking is None:
        raise SystemExit("the shipped detector has no checking reader")
    examples = read_labelled(EVERYDAY)[:rows]
    times: dict[str, list[float]] = {"own": [], "checking": []}
    for number in range(rounds + 1):
        for name, each in (("own", own), ("checking", checking)):
            start = perf_counter()
            each.score_batch(examples)
            if number:  # the first round warms up
                times[name].append(perf_counter() - start)
    ratios = [c / o for c, o in zip(times["checking"], times["own"], strict=True)]

    forward, kept, again = [], [], []
    prompts = list({e.prompt: e for e in examples}.values())[:answers]
    for number, example in enumerate(prompts):
        request = Request(f"{number}", example.messages, Sampling(max_tokens=96))
        steps = [step for _, step in own.engine.generate([request], own.artifact.scorer)]
        tokens = [token for step in steps for token in step.tokens]
        text = "".join(step.text for step in steps)
        prompt = rendered(detector.tokenizer, example.messages)
        readout = steps[-1].readout
        forward.append(readout.forward_seconds if readout else float("nan"))
        for into, known in ((kept, steps[-1].prompt), (again, None)):
            start = perf_counter()
            asked = [Asked.of(prompt, [(text, tokens)], checking.artifact.focus, known)]
            checking.engine.replay(asked, checking.artifact.scorer, features=True)
            into.append(perf_counter() - start)
    size = (DEFAULT_ARTIFACT / "checking" / "adapter_model.safetensors").stat().st_size
    table = [
        {
            "replay, checking / own": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "after a generation, of its forward passes": statistics.median(
                k / f for k, f in zip(kept, forward, strict=True)
            ),
            "the same with the prompt read again": statistics.median(
                a / f for a, f in zip(again, forward, strict=True)
            ),
            "adapter, MB": round(size / 1e6, 2),
        }
    ]
    record.write(output, {"tables": {"checking-cost": table}, "seconds": times, "rows": rows, "answers": answers})
    click.echo(table)


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"checking_cost: {error}")
