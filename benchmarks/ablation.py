"""Do the named latents carry the score? Take them out of the residual rows and score again.

    python benchmarks/ablation.py DATA WORK --dictionary DICTIONARY -o benchmarks/results/ablation.json

In the best windows of the `ANSWERS` answers whose tokens say most, the `TOP` active latents with the largest
contributions are ablated: activation times decoder row is subtracted at the hookpoint. The control ablates, in
the same rows, other active latents whose activation comes nearest. Grounding terms stay as they are. The detector was
trained on four fifths of these answers: this asks what its terms mean, not how right it is.
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
from groundwire.sae import Dictionary, load_dictionary
from groundwire.training.data import read_labelled
from groundwire.training.head import best_window
from groundwire.training.rows import collect_rows

TOP = 5
ANSWERS = 150
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


def ablate(artifact: Artifact, dictionary: Dictionary, rows: torch.Tensor) -> tuple[float, float, float] | None:
    """Sum of the named latents' contributions, fall of the logit without them, and fall without the control.

    rows: `[window, d]`. None where fewer than `TOP` used latents are active and raise the score.
    """
    scorer = artifact.scorer
    ids = [term.feature_id for term in artifact.terms if term.kind == "latent"]
    before = scorer.shapes(scorer.encode(rows)).mean(0)
    activations = dictionary.encode(rows)
    mean = activations.mean(0)
    used = torch.tensor(ids)
    useful = torch.where((mean[used] > 0) & (before[: len(ids)] > 0), before[: len(ids)], -torch.inf)
    if int((useful > 0).sum()) < TOP:
        return None
    named = used[useful.topk(TOP).indices]
    others = mean.clone()
    others[named] = -torch.inf
    control = []
    for latent in named.tolist():
        nearest = torch.where(others > 0, (others - mean[latent]).abs(), torch.inf).argmin()
        control.append(int(nearest))
        others[nearest] = -torch.inf

    def fall(latents: torch.Tensor) -> float:
        without = rows - activations[:, latents] @ dictionary.decoder[latents]
        return float((before - scorer.shapes(scorer.encode(without)).mean(0)).sum())

    return float(useful.topk(TOP).values.sum()), fall(named), fall(torch.tensor(control))


@click.command()
@click.argument("data", type=FOLDER)
@click.argument("work", type=FOLDER)
@click.option("--dictionary", "folder", required=True, type=FOLDER)
@click.option("-o", "--output", required=True, type=FILE)
def main(data: Path, work: Path, folder: Path, output: Path) -> None:
    """Ablate in the answers of ragtruth-qa."""
    import record  # beside this script

    artifact, dictionary = Artifact.from_pretrained(DEFAULT_ARTIFACT), load_dictionary(folder)
    engine = TransformersEngine(load_reader(), artifact.hookpoint)
    rows = collect_rows(engine, read_labelled(data / "ragtruth-qa.jsonl"), work / "ragtruth-qa")
    scorer, found = artifact.scorer, []
    sums = scorer.shapes(scorer.encode(torch.from_numpy(rows.rows).float())).sum(1).numpy()
    windows = [
        (rows.offsets[i] + start, length, sums[rows.offsets[i] + start : rows.offsets[i] + start + length].mean())
        for i in range(len(rows))
        for start, length in [best_window(sums[rows.offsets[i] : rows.offsets[i + 1]], scorer.pooling.window)]
        if length
    ]
    windows.sort(key=lambda window: -window[2])
    for start, length, _ in windows[:ANSWERS]:
        part = ablate(artifact, dictionary, torch.from_numpy(rows.rows[start : start + length]).float())
        if part is not None:
            found.append(part)
    said, named, control = np.array(found).T
    rng = np.random.default_rng(0)
    draws = rng.integers(len(said), size=(1000, len(said)))
    low_high = np.quantile((named - control)[draws].mean(1), [0.025, 0.975]).tolist()
    row = {
        "answers": len(said),
        "contributions of the five": float(said.mean()),
        "fall without them": float(named.mean()),
        "fall without the control": float(control.mean()),
        "difference, 95 % interval": low_high,
        "correlation of contributions and fall": float(np.corrcoef(said, named)[0, 1]),
        "fell more than the control": float((named > control).mean()),
    }
    record.write(output, {"tables": {"ablation": [row]}})
    click.echo(json.dumps(row, indent=1))


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"ablation: {error}")
