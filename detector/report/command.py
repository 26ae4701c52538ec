"""The `groundwire report` command."""

from __future__ import annotations

import click

from groundwire.batch.column_options import column_options, columns_of


@click.command()
@click.argument("scored", metavar="SCORED", type=click.Path())
@click.option(
    "-o", "--output", "target", metavar="OUT", required=True, type=click.Path(), help="HTML file to write the page to."
)
@click.option(
    "--answers",
    metavar="ANSWERS",
    type=click.Path(),
    help="The file (or quoted glob) that was scored: it brings the texts and, where it has them, the labels.",
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(0, 500),
    default=20,
    show_default=True,
    help="How many of the most suspicious answers to show.",
)
@click.option(
    "--by",
    metavar="COLUMN",
    multiple=True,
    help="Count by this column of ANSWERS; may be repeated. [default: generator and dataset, where rows differ]",
)
@click.option(
    "--labels",
    metavar="LABELLED",
    type=click.Path(),
    help="Rows of ANSWERS with labels, as `groundwire sample` picked them. [default: the labels in ANSWERS]",
)
@column_options
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def report(
    scored: str,
    target: str,
    answers: str | None,
    top: int,
    by: tuple[str, ...],
    labels: str | None,
    overwrite: bool,
    **columns: str | None,
) -> None:
    """Make a page to read of the verdicts in SCORED, the file that `groundwire score` wrote ("-": standard input).

    OUT is one HTML file that loads nothing and runs no script: how many answers are flagged or could not be checked,
    how scores are spread, the most suspicious answers with their spans and reasons and, where ANSWERS has labels, how
    often the detector is right on this data and how many answers are unfaithful. In ANSWERS these fields are used
    where they are there:

    \b
      "label"                  1 unfaithful, 0 faithful
      "group"                  answers of one group share a source; intervals account for it
      "generator", "dataset"   counted by, or name others with --by

    The page holds text of your answers and their prompts: share it as you would share them.
    """
    from groundwire.counts import shown
    from groundwire.report.build import build_report
    from groundwire.report.origins import corrected

    tally = build_report(
        scored, target, answers=answers, top=top, by=by, labels=labels, columns=columns_of(columns), overwrite=overwrite
    )
    total = tally.all
    words = f"{total.rows} rows, {total.checked} checked, {total.flagged} flagged, {total.not_checked} not checked"
    words += f"\nunfaithful: {shown(corrected(tally))}"
    click.echo(f"{words}\nwritten to {target}", err=True)
