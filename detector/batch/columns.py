"""Which of a row's columns hold what: the caller's names become the fields that `rows` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from groundwire.batch.logged import LOGGED, from_log
from groundwire.errors import InputError

ABOUT = ("generator", "group", "label", "label_weight")  # by which the summary of a run counts
NUMBERS = {"label", "label_weight"}
PLAIN = ("messages", *ABOUT)  # read under their own names only


@dataclass(frozen=True)
class Columns:
    """The caller's names for the fields of a row; None where the field has its own name."""

    id: str | None = None
    prompt: str | None = None
    question: str | None = None
    context: str | None = None
    response: str | None = None

    @cached_property
    def given(self) -> dict[str, str]:
        """Field to column, for the fields that were given one."""
        return {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name)}

    def wanted(self) -> set[str]:
        """Every column that can matter; all others need not be read."""
        return {field.name for field in fields(self)} | {*PLAIN, *LOGGED, *self.given.values()}

    def read(self, row: Any) -> Any:
        """The row with its fields under their own names; passages and messages written as JSON are read.

        A column that was named takes the field's place, also where the row lacks it. Raises InputError where a logged
        pair is broken.
        """
        if not isinstance(row, Mapping):
            return row
        named = {field: row.get(column) for field, column in self.given.items()}
        found = dict(from_log(row)) | named
        if "prompt" in named:
            found.pop("messages", None)  # the caller says where the prompt is
        elif {"context", "question"} & named.keys():
            found.pop("messages", None)
            found.pop("prompt", None)
        found["context"] = _list(found["context"]) if "context" in found else None
        if "messages" in found:
            found["messages"] = _list(found["messages"])
        return found if "context" in row or "context" in named else {k: v for k, v in found.items() if k != "context"}


def cells(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of CSV cells, where nothing stands for an absent value: only a response or passages can be empty.

    Labels and their weights are numbers, where they are.
    """
    found: dict[str, Any] = {k: v if v or k in ("response", "context") else None for k, v in row.items()}
    for name in NUMBERS & found.keys():
        with suppress(TypeError, ValueError):
            found[name] = float(found[name])
    return found


def _list(value: Any) -> Any:
    """The list that a text is the JSON of, else the value as it is: a passage may well begin with a bracket."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return read if all(isinstance(item, str | Mapping) for item in read) else value


def check_columns(columns: Columns, present: set[str], where: str) -> None:
    """Raise InputError where a named column is not among those the file has."""
    for field, column in columns.given.items():
        if column not in present:
            raise InputError(
                f"{where} has no column {column!r} (--{field}-column)",
                expected="one of " + ", ".join(sorted(present)[:20]),
                remedy="correct the name",
            )
