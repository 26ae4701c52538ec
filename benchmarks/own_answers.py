"""The default model's own answers to held-out questions, and the labels given to them by reading.

    python benchmarks/own_answers.py generate     questions.jsonl -> answers.jsonl, through the product's own path
    python benchmarks/own_answers.py label        labels.jsonl    -> "label", "spans", "abstained" of answers.jsonl
    python benchmarks/own_answers.py second FILE  second_reader.jsonl -> how far the two readings agree; FILE holds the
                                                  answers under the second one's labels, for judge.py

`generate` continues where it was interrupted. It keeps no score, so that whoever labels does not see one. The rule by
which the answers were labelled, and where the texts come from, stand in own_answers/README.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from groundwire import Detector, Request, Sampling
from groundwire.batch.rows import parse_row
from groundwire.errors import InputError

FOLDER = Path(__file__).parent / "own_answers"
BATCH = 8
MAX_TOKENS = 160
TEMPERATURE = 0.7
FIELDS = ("label", "spans", "abstained")
DRAWS = 2000

Row = dict[str, Any]


def sampling_of(number: int) -> Sampling:
    """How question `number` (from 0) is answered: half greedy, half sampled with a seed of its own.

    Questions come in pairs, one that the passages answer and one that goes beyond them; within a pair one is greedy
    and the other sampled, and which is which alternates, so that the way of asking and of sampling are not confounded.
    """
    greedy = (number + number // 2) % 2 == 0
    return Sampling(max_tokens=MAX_TOKENS) if greedy else Sampling(MAX_TOKENS, TEMPERATURE, seed=number)


def generate(detector: Detector, questions: list[Row], done: set[str]) -> Iterator[Row]:
    """Rows with the model's answer, batch by batch; a batch of which every answer is `done` is skipped.

    Batches are the same in every run, because the numbers of a batched pass depend, by rounding, on what shares it.
    """
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        if all(row["id"] in done for row in batch):
            continue
        requests = [
            Request(row["id"], parse_row({**row, "response": ""}).messages, sampling_of(start + i))
            for i, row in enumerate(batch)
        ]
        texts, ends = dict.fromkeys((row["id"] for row in batch), ""), {}
        for name, step in detector.engine.generate(requests, detector.artifact.scorer):
            texts[name] += step.text
            ends[name] = step.finish_reason
        for row, request in zip(batch, requests, strict=True):
            if row["id"] not in done:
                yield {
                    **row,
                    "response": texts[row["id"]],
                    "finish_reason": ends[row["id"]],
                    "generator": detector.engine.model_id,
                    "dataset": "own-answers",
                    "sampling": asdict(request.sampling),
                }


def labelled(row: Row, label: Mapping[str, Any]) -> Row:
    """`row` with what was decided on it.

    label: "unfaithful", the parts of the response that its passages contradict or do not support, each as it is
        written and in order (each is looked for after the one before); and "abstained".
    Raises InputError where a part is not in the response, or where an abstention is said to claim something.
    """
    spans, end = [], 0
    for part in label["unfaithful"]:
        start = row["response"].find(part, end)
        if start < 0 or not part:
            raise InputError(
                f"{row['id']}: {part!r} does not occur after character {end} of its response",
                expected="parts of the response, exactly as written and in order",
                remedy="copy the part from the response",
            )
        end = start + len(part)
        spans.append({"start": start, "end": end})
    if spans and label["abstained"]:
        raise InputError(f"{row['id']}: abstained, yet unfaithful", expected="at most one of them")
    kept = {key: value for key, value in row.items() if key not in FIELDS}
    return {**kept, "label": int(bool(spans)), "spans": spans, "abstained": label["abstained"]}


def read_again(rows: list[Row], readings: list[Row]) -> list[Row]:
    """`rows` under the labels of `readings`, without spans, which a second reading does not mark in full.

    Raises InputError where they are not readings of the same rows in the same order.
    """
    if [row["id"] for row in rows] != [reading["id"] for reading in readings]:
        raise InputError("the readings are not of these answers", expected="one reading per answer, in the same order")
    return [{**row, "label": found["label"], "spans": None} for row, found in zip(rows, readings, strict=True)]


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa of two readers' labels (0 or 1); NaN where chance alone has them agree on every row."""
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return float(((a == b).mean() - chance) / (1 - chance)) if chance < 1 else float("nan")


def kappa_interval(a: np.ndarray, b: np.ndarray, groups: list[str]) -> tuple[float, float]:
    """95 % percentile interval of `kappa`, by bootstrap over whole groups."""
    names, member = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(member == group) for group in range(len(names))]
    rng = np.random.default_rng(0)
    draws = (np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(DRAWS))
    low, high = np.nanquantile([kappa(a[drawn], b[drawn]) for drawn in draws], [0.025, 0.975])
    return float(low), float(high)


def read(path: Path) -> list[Row]:
    """The rows of a JSONL file; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def as_line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


@click.group(help=__doc__.splitlines()[0])
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=FOLDER, show_default="own_answers")
@click.pass_context
def main(context: click.Context, folder: Path) -> None:
    context.obj = folder


@main.command("generate")
@click.pass_obj
def generate_command(folder: Path) -> None:
    """Answer the questions that are not answered yet."""
    questions, answers = read(folder / "questions.jsonl"), folder / "answers.jsonl"
    done = {row["id"] for row in read(answers)}
    with open(answers, "a", encoding="utf-8") as file:
        for row in generate(Detector.from_pretrained(), questions, done):
            file.write(as_line(row))
            file.flush()


@main.command("label")
@click.pass_obj
def label_command(folder: Path) -> None:
    """Write the labels into the answers."""
    labels = {row["id"]: row for row in read(folder / "labels.jsonl")}
    rows = [labelled(row, labels[row["id"]]) for row in read(folder / "answers.jsonl")]
    unfinished = folder / "answers.jsonl.part"
    unfinished.write_text("".join(map(as_line, rows)), encoding="utf-8")
    os.replace(unfinished, folder / "answers.jsonl")
    click.echo(f"{sum(row['label'] for row in rows)} of {len(rows)} unfaithful")


@main.command("second")
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def second_command(folder: Path, output: Path) -> None:
    """Write the answers under the second reader's labels to OUTPUT, and say how far the two readings agree."""
    rows = read(folder / "answers.jsonl")
    again = read_again(rows, read(folder / "second_reader.jsonl"))
    first, second = (np.array([row["label"] for row in labels]) for labels in (rows, again))
    low, high = kappa_interval(first, second, [row["group"] for row in rows])
    output.write_text("".join(map(as_line, again)), encoding="utf-8")
    click.echo(
        f"{(first == second).sum()} of {len(rows)} alike, kappa {kappa(first, second):.3f} ({low:.3f} to {high:.3f})"
    )


if __name__ == "__main__":
    main()
