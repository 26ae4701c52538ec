"""Labels in a file of their own, as `groundwire sample` made it: joined to the answers by id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from groundwire.batch.reader import read_objects
from groundwire.errors import InputError
from groundwire.report.answers import Answer, check_answers, label_of, weight_of
from groundwire.report.rows import Scored

# id as given: label and label_weight
Labels = Mapping[str | int, tuple[int, float | None]]


def read_labels(source: str | Path) -> Labels:
    """Labels and weights by id; rows whose label is still null are left out.

    Raises InputError where the file cannot be read, has no label, an id is missing or given twice, or a value is wrong.
    """
    check_answers(source)
    found: dict[str | int, tuple[int, float | None]] = {}
    for number, values in enumerate(read_objects(source), 1):
        name, label = values.get("id"), label_of(values, number)
        if not isinstance(name, str | int) or isinstance(name, bool) or name in found:
            raise InputError(
                f"row {number} of {str(source)!r} has id {name!r:.60}",
                expected="an id that occurs once",
                remedy="give the file as `groundwire sample` wrote it, with labels filled in",
            )
        if label is not None:
            found[name] = label, weight_of(values, number)
    if not found:
        raise InputError(
            f"{str(source)!r} has no label",
            expected='"label": 1 (unfaithful) or 0 (faithful)',
            remedy="fill in the labels first",
        )
    return found


def labelled(pairs: Iterator[tuple[Scored, Answer]], labels: Labels) -> Iterator[tuple[Scored, Answer]]:
    """The pairs with these labels in place of their own.

    Raises InputError where an id is no row's, or several rows'.
    """
    met: set[str | int] = set()
    for row, answer in pairs:
        label, weight = labels.get(row.id, (None, None))
        if label is not None and row.id in met:
            raise InputError(
                f"the labelled id {row.id!r} is that of several answers",
                expected="an id for each answer",
                remedy="give answers ids of their own, or none, and score them again",
            )
        if label is not None:
            met.add(row.id)
        yield row, replace(answer, label=label, weight=weight)
    if len(met) < len(labels):
        lost = next(name for name in labels if name not in met)
        raise InputError(
            f"no answer has the labelled id {lost!r}",
            expected="labels of the answers that were scored",
            remedy="pass the file of labels that was drawn from these answers",
        )
