"""The `groundwire sample` command."""

from __future__ import annotations

import click

from groundwire.batch.column_options import column_options, columns_of


@click.command()
@click.argument("scored", metavar="SCORED", type=click.Path())
@click.option("--for-labels", "number", metavar="N", required=True, type=click.IntRange(1), help="How many rows.")
@click.option("-o", "--output", "target", metavar="OUT", required=True, type=click.Path(), help="JSONL file to write.")
@click.option(
    "--answers",
    metavar="ANSWERS",
    type=click.Path(),
    help="The file (or quoted glob) that was scored: its rows are then written whole.",
)
@click.option("--seed", metavar="N", type=click.IntRange(0), default=0, show_default=True, help="Of the draw.")
@column_options
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def sample(
    scored: str, number: int, target: str, answers: str | None, seed: int, overwrite: bool, **columns: str | None
) -> None:
    """Pick rows of SCORED, the file that `groundwire score` wrote, that are worth labelling.

    How often answers are unfaithful, labels alone can tell, and each costs a person's time. Rows are drawn at random
    from strata of the score: more where the detector is in doubt, some everywhere, because the detector may be wrong
    where it is sure. Every row keeps the chance it had, so that the draw does not distort what is estimated:

    \b
      {"id": 1, ..., "label": null, "label_probability": 0.05, "label_weight": 20.0}

    Fill in "label": 1 unfaithful, 0 faithful; look at the passages and not at the score. Then

    \b
      groundwire report SCORED --answers ANSWERS --labels OUT -o report.html   the corrected rate, with its interval
      groundwire calibrate OUT ...                                             a detector that fits your data
    """
    from groundwire.sample.build import build_sample

    found = build_sample(
        scored, target, number=number, answers=answers, seed=seed, columns=columns_of(columns), overwrite=overwrite
    )
    lines = [f"{'score':<15} {'rows':>9} {'drawn':>6} {'chance':>8}"]
    for stratum in found.strata:
        between = f"{stratum.low:.3f} - {stratum.high:.3f}"
        lines.append(f"{between:<15} {stratum.rows:>9} {stratum.drawn:>6} {stratum.probability:>8.2%}")
    lines.append("more where the detector is in doubt; some everywhere, as it may be wrong where it is sure")
    lines.append(f"{len(found.rows)} rows written to {target}; fill in their labels: 1 unfaithful, 0 faithful")
    click.echo("\n".join(lines), err=True)
