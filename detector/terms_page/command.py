"""The `groundwire terms` command."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--artifact", metavar="FOLDER", help="Detector to show. [default: the one that ships with Groundwire]")
@click.option(
    "-o", "--output", "target", metavar="OUT", required=True, type=click.Path(), help="HTML file to write the page to."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
def terms(artifact: str | None, target: str, overwrite: bool) -> None:
    """Make a page to read of every term of a detector, the strongest first.

    OUT is one HTML file that loads nothing and runs no script. For each term it says what it looks at, whether it
    raises or lowers the score and by how much at most, and draws its shape: what it adds to the log-odds where.

    The page quotes the text that named the latents: share it as you would share that text.
    """
    from groundwire.artifact import Artifact
    from groundwire.batch.writer import check_target
    from groundwire.detector import DEFAULT_ARTIFACT
    from groundwire.report.document import write_document
    from groundwire.terms_page.page import page

    folder = Path(artifact or DEFAULT_ARTIFACT)
    loaded = Artifact.from_pretrained(folder)
    for part in folder.iterdir():
        check_target(target, source=part, overwrite=overwrite)
    write_document(Path(target), page(loaded))
    click.echo(f"{len(loaded.terms)} terms of {loaded.id}\nwritten to {target}", err=True)
