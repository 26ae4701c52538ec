"""The options by which a command is told what the columns of a file of answers are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from groundwire.batch.columns import Columns

COLUMNS = (
    ("id", "the row's id"),
    ("prompt", "the whole prompt"),
    ("question", "the question"),
    ("context", "the passages"),
    ("response", "the answer"),
)


def column_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with an option for each field of `Columns`: `id_column` and so on."""
    for name, holds in reversed(COLUMNS):
        text = f"Column that holds {holds}. [default: {name}]"
        command = click.option(f"--{name}-column", metavar="NAME", help=text)(command)
    return command


def columns_of(options: Mapping[str, str | None]) -> Columns:
    """What these options said."""
    from groundwire.batch.columns import Columns

    return Columns(**{name.removesuffix("_column"): column for name, column in options.items()})
