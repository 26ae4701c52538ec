"""Does "unlike training" find the data a detector should not be trusted on?

    python benchmarks/unlike.py DATA WORK -o benchmarks/results/unlike.json

Each set in turn is left out, with the sets that share its sources; distances are learned from the others (four fifths
of their groups; quantiles from the fifth kept back) over the shipped detector's features. Beside it stands the AUC of
the detector that never saw the set (results/compare.json). DATA and WORK are those of `transfer.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np
import torch

from groundwire.artifact import Artifact
from groundwire.detector import DEFAULT_ARTIFACT
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import GroundwireError
from groundwire.training.data import read_labelled
from groundwire.training.pack import distances
from groundwire.training.pipeline import split
from groundwire.training.rows import collect_rows, join

LEFT_OUT = (("refchecker", "dolly"), ("summedits",), ("xsumfaith", "frank"), ("ragtruth-qa",))
TRAINED_ON = ("ragtruth-qa", "refchecker", "summedits", "xsumfaith", "frank")
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.argument("data", type=FOLDER)
@click.argument("work", type=FOLDER)
@click.option("-o", "--output", required=True, type=FILE)
def main(data: Path, work: Path, output: Path) -> None:
    """Write the share of answers flagged as unlike training, set by set."""
    import record  # beside this script

    artifact = Artifact.from_pretrained(DEFAULT_ARTIFACT)
    encoder, engine = artifact.scorer.encoder, TransformersEngine(load_reader(), artifact.hookpoint)
    examples = {name: read_labelled(data / f"{name}.jsonl") for name in (*TRAINED_ON, "dolly")}
    rows = {name: collect_rows(engine, examples[name], work / name) for name in examples}
    compared = json.loads((output.parent / "compare.json").read_text(encoding="utf-8"))["tables"]["compare"]
    table = []
    for out in LEFT_OUT:
        kept = [name for name in TRAINED_ON if name not in out]
        others = [e for name in kept for e in examples[name]]
        kinds = np.unique([f"{e.dataset} {e.label}" for e in others], return_inverse=True)[1]
        _, held_out = split([e.group for e in others], kinds, [e.label for e in others], 0)
        unlike = distances(encoder, join([rows[name] for name in kept]), held_out)
        for name in out:
            own = rows[name]
            spoken = [i for i in range(len(own)) if own.offsets[i + 1] > own.offsets[i]]
            means = [
                encoder(torch.from_numpy(own.rows[own.offsets[i] : own.offsets[i + 1]]).float()).double().mean(0)
                for i in spoken
            ]
            found = [unlike.measure(mean) for mean in means]
            line = next(r for r in compared if r["data set"] == name and name in r["left out"])
            table.append(
                {
                    "data set, never seen": name,
                    "answers": len(found),
                    "median quantile of distance": float(np.median([f["quantile"] for f in found])),
                    "flagged unlike training": float(np.mean([f["flag"] for f in found])),
                    "AUC": line["AUC"],
                }
            )
    record.write(output, {"tables": {"unlike": table}})
    click.echo(json.dumps(table, indent=1))


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"unlike: {error}")
