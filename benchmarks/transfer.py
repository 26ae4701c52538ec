"""Every data set scored by detectors that never saw its groups, some that never saw its kind; beside the baselines.

    python benchmarks/transfer.py DATA WORK --dictionary DICTIONARY

DATA holds NAME.jsonl for each of `SETS`; WORK/NAME keeps their rows (`training.rows`), so an interrupted run continues.
Each split trains the whole pipeline anew: a fifth of the training groups is kept back to calibrate, the split's test
rows are in neither part. Scores of all splits stay in WORK/scores-*.npz for the other benchmarks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import GroundwireError
from groundwire.sae import Dictionary, load_dictionary
from groundwire.training.data import LabelledExample, folds, read_labelled
from groundwire.training.head import HeadOptions
from groundwire.training.pipeline import fit
from groundwire.training.response import measure
from groundwire.training.rows import TokenRows, collect_rows, join

SETS = ("ragtruth-qa", "refchecker", "summedits", "xsumfaith", "frank", "dolly")
TRAINABLE = SETS[:-1]  # dolly's labels have no licence: evaluated on, never trained on
FOLDS = 5
# Summaries teach a token head little about answers to questions: tried on ragtruth-qa's folds (results/search.json).
TOKENS = {"summedits": 8_000, "xsumfaith": 8_000, "frank": 8_000}


@dataclass(frozen=True)
class Split:
    """`train` and `test` are row numbers by data set; `name` says what was left out."""

    name: str
    train: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def splits(examples: dict[str, list[LabelledExample]]) -> Iterator[Split]:
    """Folds within ragtruth-qa and over summedits' domains (all other sets in training), and sets left out whole."""
    everything = {name: np.arange(len(examples[name])) for name in SETS}

    def others(*without: str) -> dict[str, np.ndarray]:
        return {name: everything[name] for name in TRAINABLE if name not in without}

    rows = examples["ragtruth-qa"]
    for k, (train, test) in enumerate(folds([e.group for e in rows], [e.label for e in rows], FOLDS, 0)):
        yield Split(f"ragtruth-qa fold {k}", {**others("ragtruth-qa"), "ragtruth-qa": train}, {"ragtruth-qa": test})
    yield Split("without dolly, refchecker", others("refchecker"), {n: everything[n] for n in ("dolly", "refchecker")})
    yield Split("without summedits", others("summedits"), {"summedits": everything["summedits"]})
    left = {name: everything[name] for name in ("xsumfaith", "frank")}
    yield Split("without xsumfaith, frank", others("xsumfaith", "frank"), left)
    yield Split("without ragtruth-qa", others("ragtruth-qa"), {"ragtruth-qa": everything["ragtruth-qa"]})
    domains = np.array([e.generator for e in examples["summedits"]])
    for k, part in enumerate(np.array_split(np.unique(domains), FOLDS)):
        out = np.isin(domains, part)
        train = {**others("summedits"), "summedits": np.flatnonzero(~out)}
        yield Split(f"summedits domains {k}", train, {"summedits": np.flatnonzero(out)})


def run(
    split: Split,
    examples: dict[str, list[LabelledExample]],
    rows: dict[str, TokenRows],
    dictionary: Dictionary,
    tokenizer: Any,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Logits and token sums of the split's test rows, by `NAME` and `NAME.tokens`, and their numbers, `NAME.rows`."""
    chosen = [examples[name][i] for name, numbers in split.train.items() for i in numbers]
    taken = join([rows[name].take(numbers) for name, numbers in split.train.items()])
    fitted = fit(dictionary, chosen, taken, tokenizer, HeadOptions(tokens=TOKENS), **options)
    found: dict[str, np.ndarray] = {}
    for name, numbers in split.test.items():
        test = rows[name].take(numbers)
        logits, sums = fitted.logits(test, measure([examples[name][i] for i in numbers]))
        found |= {name: logits, f"{name}.tokens": sums, f"{name}.rows": numbers}
    weights = [fitted.response.window_weight, fitted.calibrated.scale, fitted.calibrated.shift]
    return {**found, "weights": np.array(weights), "prevalence": np.array(fitted.calibrated.prevalence)}


def load(data: Path, work: Path, engine: TransformersEngine, names: Sequence[str] = SETS) -> tuple[dict, dict]:
    """Examples and rows of every set."""
    examples = {name: read_labelled(data / f"{name}.jsonl") for name in names}
    return examples, {name: collect_rows(engine, examples[name], work / name) for name in names}


@click.command()
@click.argument("data", type=click.Path(file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dictionary", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", help="Part of the names of the splits to run. [default: all]")
def main(data: Path, work: Path, dictionary: Path, only: str | None) -> None:
    """Score every split's test rows; `benchmarks/compare.py` makes the figures of them."""
    loaded = load_dictionary(dictionary)
    engine = TransformersEngine(load_reader(), loaded.hookpoint or "")
    examples, rows = load(data, work, engine)
    todo = [split for split in splits(examples) if not only or only in split.name]
    for split in tqdm(todo, unit="split", disable=None):
        path = work / f"scores-{split.name.replace(', ', '+').replace(' ', '-')}.npz"
        if not path.exists():
            np.savez(path, **run(split, examples, rows, loaded, engine.tokenizer))
        click.echo(f"{split.name}: {path.name}")


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"transfer: {error}")
