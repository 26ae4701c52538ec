"""Labelled answers of one's own, scored by a detector that exists: the logits that recalibration works on.

A row is what `groundwire score` reads and a `label` (1 = unfaithful, 0 = faithful); `group` (the source document or
question; by default, rows of one prompt) and `dataset` (by default, the file's name) are optional.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from tqdm import tqdm

from groundwire.batch.rows import parse_row
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.types import Example

_AT_ONCE = 64  # rows between two movements of the progress bar


@dataclass(frozen=True)
class Answer:
    """An answer whose label is known, with its group and data set."""

    example: Example
    label: int
    group: str
    dataset: str


@dataclass(frozen=True)
class Scored:
    """Rows that the detector checked, and how many it did not, by reason."""

    logits: Float[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]
    datasets: Shaped[np.ndarray, " n"]
    not_checked: Counter[str]


def read_answers(paths: Sequence[Path]) -> tuple[list[Answer], list[str]]:
    """The usable rows of JSONL files (plain or .gz), and a sentence on each line that is not.

    Raises InputError where a file cannot be read, no row has a label, or all labels are the same.
    """
    answers: list[Answer] = []
    faults: list[str] = []
    labelled = False
    for path in paths:
        for number, line in _lines(path):
            try:
                row = json.loads(line)
                labelled |= isinstance(row, dict) and row.get("label") is not None
                answers.append(_answer(row, str(number), path.name.split(".")[0]))
            except (InputError, ValueError, RecursionError) as error:
                faults.append(f"{path}, line {number}: {error.given if isinstance(error, InputError) else error}")
    names = ", ".join(map(str, paths))
    if not labelled:
        raise InputError(
            f"no row of {names} has a label",
            expected='"label": 1 (unfaithful) or 0 (faithful) in every row',
            remedy="label some answers first: a few hundred are enough",
        )
    if not answers:
        raise InputError(f"no usable row in {names}; {faults[0]}", expected="rows as `groundwire score` reads them")
    check_labels([answer.label for answer in answers])
    return answers, faults


def check_labels(labels: Sequence[int] | np.ndarray) -> None:
    """Raise InputError unless both labels occur."""
    found = sorted({int(label) for label in labels})
    if found != [0, 1]:
        raise InputError(
            f"{len(labels)} rows, all with label {found[0]}" if found else "no row that could be checked",
            expected="faithful (0) and unfaithful (1) answers",
            remedy="add labelled answers of the other kind",
        )


def score_answers(detector: Detector, answers: Sequence[Answer]) -> Scored:
    """Logits of the answers that the detector checks, in order; the others are counted by reason."""
    kept: list[Answer] = []
    logits: list[float] = []
    not_checked: Counter[str] = Counter()
    with tqdm(total=len(answers), unit="row", desc="scoring", disable=None) as bar:
        for start in range(0, len(answers), _AT_ONCE):
            chunk = answers[start : start + _AT_ONCE]
            for answer, found in zip(chunk, detector.score_batch([a.example for a in chunk]), strict=True):
                if found.logit is None:
                    not_checked[str(found.reason)] += 1
                else:
                    kept.append(answer)
                    logits.append(found.logit)
            bar.update(len(chunk))
    labels = np.array([answer.label for answer in kept], dtype=int)
    groups = np.array([answer.group for answer in kept], dtype=str)
    return Scored(np.array(logits), labels, groups, np.array([a.dataset for a in kept], dtype=str), not_checked)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}", expected="a JSONL file, plain or .gz") from error


def _answer(row: Any, name: str, dataset: str) -> Answer:
    example = parse_row(row, default_id=name)
    label = row.get("label")
    if label not in (0, 1):
        raise InputError(f'"label" is {label!r:.60}', expected="1 (unfaithful) or 0 (faithful)")
    digest = hashlib.sha256(json.dumps(list(example.messages)).encode()).hexdigest()[:12]
    return Answer(example, int(label), _name(row, "group") or digest, _name(row, "dataset") or dataset)


def _name(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise InputError(f'"{key}" is {value!r:.60}', expected="a string or a whole number")
    return "" if value is None else str(value)
