"""What reading a long prompt in windows costs: the same rows scored whole, and with a context too small for them.

    python benchmarks/long_prompts.py DATA WORK -o benchmarks/results/long-prompts.json

Of each set the sources with the longest prompts are taken, at most `ROWS` answers of each, both labels as evenly as
there are. The context of the engine is then lowered, for each source and each line of the table, to the middle one of
those (in steps of 32 tokens) at which its longest answer needs the line's number of windows; a row is counted where it
needed as many itself. DATA holds NAME.jsonl for each of `SETS`; WORK keeps the scores of each source, so that an
interrupted run continues. The detector is the shipped one, which has learned from these rows: its AUC is no measure
here, the difference between both ways of reading is what is asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from record import write
from tqdm import tqdm

from groundwire.detector import Detector
from groundwire.errors import GroundwireError, InputError, PromptTooLong
from groundwire.passage_windows import PassageWindows
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.metrics import auc, paired_difference

SETS = ("ragtruth-qa", "summedits", "frank")
BINS = {"2": range(2, 3), "3 to 4": range(3, 5), "5 to 8": range(5, 9)}
ROWS, STEP, DRAWS = 4, 32, 2000
COMMAND = "python benchmarks/long_prompts.py DATA WORK --sources {} -o benchmarks/results/long-prompts.json"


class Scored(NamedTuple):
    """A row, its score when read whole and when read in windows. bin: the line of the table it belongs to."""

    dataset: str
    group: str
    label: int
    bin: str
    whole: float
    windowed: float


def sources(examples: Sequence[LabelledExample], count: int) -> list[list[LabelledExample]]:
    """Answers of the `count` sources with the longest prompts, both labels in turn."""
    groups: dict[str, list[LabelledExample]] = {}
    for example in examples:
        groups.setdefault(example.group, []).append(example)
    longest = sorted(groups.values(), key=lambda own: (-max(len(e.prompt) for e in own), own[0].group))
    return [_both(own) for own in longest[:count]]


def _both(own: Sequence[LabelledExample]) -> list[LabelledExample]:
    places = {0: 0, 1: 0}
    ranked = []
    for example in own:
        ranked.append((places[example.label], example.label, example))
        places[example.label] += 1
    return [example for *_, example in sorted(ranked, key=lambda r: r[:2])[:ROWS]]


def contexts(detector: Detector, own: Sequence[LabelledExample]) -> dict[str, int]:
    """For each of `BINS` the middle one of the contexts at which the longest answer to a source needs so many windows;
    where there is none, the line lacks the source."""
    longest = max(own, key=lambda e: len(e.prompt) + len(e.response))
    tokens = len(detector.tokenizer(longest.response)["input_ids"])
    prompt = len(detector.tokenizer(longest.prompt)["input_ids"])
    found: dict[str, list[int]] = {title: [] for title in BINS}
    for context in range(prompt + tokens, 64, -STEP):
        try:
            number = len(PassageWindows(detector.tokenizer, context).cut(longest, tokens))
        except PromptTooLong:
            break
        for title, wanted in BINS.items():
            if number in wanted:
                found[title].append(context)
    return {title: own[len(own) // 2] for title, own in found.items() if own}


def scored(detector: Detector, name: str, own: Sequence[LabelledExample]) -> Iterator[Scored]:
    """Answers to one source of the set `name`, at each of its contexts."""
    context = detector.engine.context
    whole = [found.score for found in detector.score_batch(own)]
    for title, lowered in contexts(detector, own).items():
        detector.engine.context = lowered
        try:
            windowed = detector.score_batch(own, passage_windows=True)
        finally:
            detector.engine.context = context
        for example, score, found in zip(own, whole, windowed, strict=True):
            if score is not None and found.score is not None and found.passage_windows in BINS[title]:
                yield Scored(name, example.group, example.label, title, score, found.score)


def line(name: str, windows: str, rows: Sequence[Scored], threshold: float) -> dict[str, Any]:
    """One line of the table; AUCs of several sets are means of theirs. Raises InputError on a set with one label."""
    labels, groups = np.array([row.label for row in rows]), np.array([row.group for row in rows])
    sets = np.array([row.dataset for row in rows])
    whole, windowed = np.array([row.whole for row in rows]), np.array([row.windowed for row in rows])
    found = paired_difference(labels, windowed, whole, groups, sets)
    if found is None:
        raise InputError(f"{name}: rows of one label in {windows} windows", expected="both", remedy="take more sources")
    own = [np.flatnonzero(sets == each) for each in np.unique(sets)]
    faithful = labels == 0
    more = (windowed > threshold).astype(float) - (whole > threshold)
    return {
        "data set": name,
        "windows": windows,
        "rows": len(rows),
        "faithful": int(faithful.sum()),
        "AUC whole": float(np.mean([auc(labels[part], whole[part]) for part in own])),
        "AUC in windows": float(np.mean([auc(labels[part], windowed[part]) for part in own])),
        "difference": found.value,
        "its 95 % interval": [found.low, found.high],
        "false alarms whole": float((whole > threshold)[faithful].mean()),
        "false alarms in windows": float((windowed > threshold)[faithful].mean()),
        "false alarms, 95 % interval of the difference": mean_interval(more[faithful], groups[faithful]),
        "unfaithful flagged whole": float((whole > threshold)[~faithful].mean()),
        "unfaithful flagged in windows": float((windowed > threshold)[~faithful].mean()),
        "unfaithful flagged, 95 % interval of the difference": mean_interval(more[~faithful], groups[~faithful]),
        "mean score shift": float((windowed - whole).mean()),
    }


def mean_interval(values: np.ndarray, groups: np.ndarray) -> list[float]:
    """95 % percentile interval of a mean by bootstrap over whole groups."""
    member = np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(member, values), np.bincount(member)
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    return [float(q) for q in np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), (0.025, 0.975))]


def kept(path: Path, detector: Detector, examples: Path, count: int) -> list[Scored]:
    """The scored rows of a set's first `count` sources; those that `path` lacks are scored and added to it."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {own["group"]: [Scored(*row) for row in own["rows"]] for own in map(json.loads, lines)}
    path.parent.mkdir(parents=True, exist_ok=True)
    todo = sources(read_labelled(examples), count)
    with path.open("a", encoding="utf-8") as file:
        for own in tqdm(todo, desc=examples.stem, unit="source", mininterval=10):
            group = own[0].group
            if group not in done:
                done[group] = list(scored(detector, examples.stem, own))
                print(json.dumps({"group": group, "rows": done[group]}), file=file, flush=True)
    return [row for own in todo for row in done[own[0].group]]


@click.command()
@click.argument("data", type=click.Path(file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--sources", "count", default=30, show_default=True, help="Of each set, those with the longest prompts.")
@click.option("--only", type=click.Choice(SETS), help="Score this set and stop, to score several side by side.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
def main(data: Path, work: Path, count: int, only: str | None, output: Path) -> None:
    """Score rows whole and in windows; write how both differ, by set and number of windows."""
    torch.set_num_threads(1)
    detector = Detector.from_pretrained()
    rows: list[Scored] = []
    for name in [only] if only else SETS:
        rows += kept(work / f"long-prompts-{name}.jsonl", detector, data / f"{name}.jsonl", count)
    if only:
        return
    lines = []
    for name, sets in {**{name: (name,) for name in SETS}, "all": SETS}.items():
        for title in BINS:
            chosen = [row for row in rows if row.dataset in sets and row.bin == title]
            lines += [line(name, title, chosen, detector.threshold)] if chosen else []
    figures = {"command": COMMAND.format(count), "threshold": detector.threshold, "tables": {"long-prompts": lines}}
    write(output, figures)


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"long_prompts: {error}")
