"""The file that was scored, joined to its scores: texts, labels, and the columns answers are counted by."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from groundwire.batch.columns import Columns
from groundwire.batch.reader import InvalidRow, Row, read_objects, read_rows
from groundwire.batch.sources import check_extra, expand
from groundwire.errors import InputError
from groundwire.report.rows import Scored
from groundwire.types import Message

SAME_FILE = "pass the very file that was scored, unchanged"


@dataclass(frozen=True)
class Answer:
    """What was scored. `label` is 1 unfaithful, 0 faithful, None unlabelled; `group` ties answers of one source.

    weight: one over the chance with which the row was drawn to be labelled.

    `text` is None where the row could not be read. `columns` holds the row's plain values (text, number, truth value).
    """

    line: int
    id: str | int
    text: str | None
    messages: Sequence[Message] = ()
    label: int | None = None
    group: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    weight: float | None = None


def read_answers(source: str | Path, columns: Columns | None = None) -> Iterator[Answer]:
    """Rows of the file (or glob) that was scored, in order, with the ids `groundwire score` gave them.

    columns: the caller's names for the fields of a row, as they were for `score`.

    Raises InputError where the file cannot be read, or a "label" is neither 1, 0 nor null.
    """
    # Twice the parsing, but ids and messages are then what `score` saw, and labels are no concern of its reader.
    for row, values in zip(read_rows(source, columns), read_objects(source), strict=True):
        yield _answer(row, values)


def check_answers(source: str | Path) -> None:
    """Raise InputError where `source` is no file to be read twice, side by side: not a pipe, not standard input.

    Raises MissingExtra where its format needs one that is not installed.
    """
    for each in expand(source):
        if not Path(each.path).is_file() or not os.access(each.path, os.R_OK):
            raise InputError(
                f"the answers {each.path!r} are no readable file",
                expected="a file, or a glob of several: not a folder, a pipe or standard input",
                remedy="check the path and its permissions",
            )
        check_extra(each)


def join(scored: Iterable[Scored], answers: Iterable[Answer]) -> Iterator[tuple[Scored, Answer]]:
    """Pairs of score and answer, by order; raises InputError where ids, numbers of rows, or span texts differ."""
    for row, answer in zip_longest(scored, answers):
        if row is None or answer is None:
            longer, at = ("scores", row) if answer is None else ("answers", answer)
            raise InputError(
                f"the {longer} go on at line {at.line}, where the other file has ended",
                expected="one score for every answer",
                remedy=SAME_FILE,
            )
        if row.id not in (answer.id, str(answer.id)):  # in Parquet every id is text
            raise InputError(
                f"line {row.line} of the scores has id {row.id!r}, line {answer.line} of the answers {answer.id!r}",
                expected="the same ids in the same order",
                remedy=SAME_FILE,
            )
        _check_text(row, answer)
        yield row, answer


def _check_text(row: Scored, answer: Answer) -> None:
    if row.checked and answer.text is None:
        raise InputError(
            f"{row.id!r} (line {row.line}) was checked, and line {answer.line} of the answers cannot be read",
            expected="the row that was scored",
            remedy=SAME_FILE,
        )
    text = answer.text or ""
    for span in row.spans:
        if text[span.start : span.end] != span.text:
            raise InputError(
                f"{row.id!r} (line {row.line}): characters {span.start} to {span.end} of the answer are "
                f"{text[span.start : span.end]!r:.60}, and were {span.text!r:.60} when it was scored",
                expected="the text that was scored",
                remedy=SAME_FILE,
            )


def _answer(row: Row, values: Mapping[str, Any]) -> Answer:
    columns = {key: _plain(value) for key, value in values.items() if isinstance(value, str | int | float)}
    group = columns.get("group")
    if isinstance(row, InvalidRow):
        return Answer(row.line, row.id, None, (), None, group, columns=columns)
    label, weight = label_of(values, row.line), weight_of(values, row.line)
    return Answer(row.line, row.id, row.example.response, row.example.messages, label, group, columns, weight)


def label_of(values: Mapping[str, Any], line: int) -> int | None:
    """The row's label, 1 or 0, None without one. Raises InputError where it is anything else."""
    value = values.get("label")
    if value is None:
        return None
    if isinstance(value, int | float) and value in (0, 1):  # tables with gaps write 1.0
        return int(value)
    raise InputError(
        f"line {line}: the label is {value!r:.60}",
        expected="1 (unfaithful), 0 (faithful) or null",
        remedy="write labels as numbers, or leave them out",
    )


def weight_of(values: Mapping[str, Any], line: int) -> float | None:
    """The row's `label_weight`, None without one. Raises InputError where it is no finite number above 0."""
    value = values.get("label_weight")
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise InputError(
        f"line {line}: the label_weight is {value!r:.60}",
        expected="one over the chance with which the row was drawn to be labelled, a number above 0",
        remedy="keep the field as `groundwire sample` wrote it",
    )


def _plain(value: str | int | float) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
