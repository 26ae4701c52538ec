from __future__ import annotations

import click
from click.testing import CliRunner

from groundwire.batch.column_options import COLUMNS, column_options, columns_of
from groundwire.batch.columns import Columns


@click.command()
@column_options
def command(**columns: str | None) -> None:
    click.echo(repr(columns_of(columns)))


def test_every_field_has_an_option() -> None:
    given = [word for name, _ in COLUMNS for word in (f"--{name}-column", f"my {name}")]
    assert CliRunner().invoke(command, given).output.strip() == repr(Columns(*(f"my {name}" for name, _ in COLUMNS)))
    assert CliRunner().invoke(command, []).output.strip() == repr(Columns())
    help_text = CliRunner().invoke(command, ["--help"]).output
    assert help_text.index("--id-column") < help_text.index("--response-column")
