"""Labelled rows: read from JSONL, split so that no group straddles a fold.

A row is what `groundwire score` reads (`groundwire.batch.rows`), and a label:

    {"prompt": "...", "response": "...", "label": 1}
    {"id": "a-1", "prompt": "...", "response": "...", "label": 1, "spans": [{"start": 3, "end": 9}],
     "group": "question 7", "generator": "gpt-4", "dataset": "ragtruth-qa", "pair": "a-0"}
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from groundwire.batch.rows import parse_row
from groundwire.errors import InputError
from groundwire.prompts import prompt_text
from groundwire.types import Example

UNKNOWN = "unknown"
Part = Literal["training", "calibration", "kept"]


@dataclass(frozen=True)
class LabelledExample(Example):
    """An example whose answer is known.

    label: 1 = unfaithful to the prompt's passages, 0 = faithful.
    spans: unfaithful code points `[start, end)` of the response; () = none, None = only the response is labelled.
    group: source document or question; the rows of a group never straddle a split.
    generator: the model that wrote the response. dataset: where the row comes from.
    pair: id of the faithful answer to the same prompt that this unfaithful one was made from by one mistake, or None.
    """

    label: int
    spans: tuple[tuple[int, int], ...] | None
    group: str
    generator: str
    dataset: str
    pair: str | None = field(default=None, kw_only=True)

    @property
    def prompt(self) -> str:
        """The text of all messages."""
        return prompt_text(self.messages)


def read_labelled(path: str | Path) -> list[LabelledExample]:
    """The rows of a JSONL file (plain or `.gz`), in order; blank lines are skipped.

    Defaults: `id` is the line's number, `group` a hash of the prompt, `dataset` the file's name, `generator` "unknown".
    Raises InputError with the line's number on an unusable row, and where there is no file or no row.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no such file: {path}", expected="labelled JSONL, plain or .gz")
    examples = []
    for number, line in _lines(path):
        try:
            examples.append(_labelled(json.loads(line), str(number), path.name.split(".")[0]))
        except InputError as error:
            given = f"{path}, line {number}: {error.given}"
            raise InputError(given, expected=error.expected, remedy=error.remedy) from error
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: {error}", expected="one JSON object per line") from error
    if not examples:
        raise InputError(f"{path} holds no rows", expected="labelled JSONL")
    return examples


def folds(
    groups: Sequence[Any] | np.ndarray, labels: Sequence[int] | np.ndarray, k: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """`k` pairs of row indices (train, test): grouped, stratified by label, shuffled by `seed`.

    Raises InputError where a label occurs in fewer than `k` groups: some fold would lack it.
    """
    group_of, label_of = np.asarray(groups), np.asarray(labels)
    for label in (0, 1):
        found = len(np.unique(group_of[label_of == label]))
        if found < k:
            raise InputError(
                f"label {label} occurs in {found} groups",
                expected=f"at least {k}, one per fold",
                remedy="add labelled rows from other sources, or use fewer folds",
            )
    splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(label_of)), label_of, group_of))


def part_of(group: str, *, kept: float = 0.2, calibration: float = 0.15) -> Part:
    """The part of the data a group belongs to, the same on every machine and for every seed, for the same shares.

    "kept" is never looked at before figures are reported, "calibration" never trained on; the rest is "training".
    """
    place = int(hashlib.md5(group.encode(), usedforsecurity=False).hexdigest(), 16) % 20 / 20
    return "kept" if place < kept else "calibration" if place < kept + calibration else "training"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        try:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise InputError(f"{path}: {error}", expected="UTF-8 text, plain or .gz") from error


def _labelled(row: Any, name: str, dataset: str) -> LabelledExample:
    if not isinstance(row, dict):
        raise InputError(f"the row is {row!r:.60}", expected="one JSON object per line")
    example = parse_row(row, default_id=name)
    label = row.get("label")
    if label not in (0, 1):
        raise InputError(f'"label" is {label!r:.60}', expected="1 (unfaithful) or 0 (faithful)")
    return LabelledExample(
        **vars(example),
        label=int(label),
        spans=_spans(row.get("spans"), len(example.response)),
        group=_name(row, "group") or _digest(example),
        generator=_name(row, "generator") or UNKNOWN,
        dataset=_name(row, "dataset") or dataset,
        pair=_name(row, "pair") or None,
    )


def _spans(spans: Any, length: int) -> tuple[tuple[int, int], ...] | None:
    if spans is None:
        return None
    try:
        pairs = tuple((span["start"], span["end"]) for span in spans)
        inside = all(0 <= start < end <= length for start, end in pairs)
    except (TypeError, KeyError):
        inside = False
    if not inside or any(type(offset) is not int for pair in pairs for offset in pair):
        raise InputError(
            f'"spans" is {spans!r:.80} on a response of {length} characters',
            expected='[{"start": 0, "end": 5}, ...] inside the response, [] for none, or null',
            remedy="count offsets in Unicode code points of `response`",
        )
    return pairs


def _name(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f'"{key}" is {value!r:.60}', expected="a string or a whole number")
    return str(value)


def _digest(example: Example) -> str:
    return hashlib.sha256(json.dumps(list(example.messages)).encode()).hexdigest()[:12]
