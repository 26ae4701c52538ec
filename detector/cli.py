"""The `groundwire` command. Commands are loaded when they are called, so `groundwire --help` is instant."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from groundwire import __version__
from groundwire.errors import GroundwireError, MissingExtra
from groundwire.memory import keep_freed_memory

# name: (module, attribute, one line for the overview)
COMMANDS = {
    "demo": ("groundwire.demo", "demo", "Watch a small model answer from passages, and its answers being checked."),
    "score": ("groundwire.batch.command", "score", "Score answers that exist: a JSONL file in, a JSONL file out."),
    "report": ("groundwire.report.command", "report", "Make an HTML page to read of what `score` wrote."),
    "sample": ("groundwire.sample.command", "sample", "Pick the rows of what `score` wrote that are worth labelling."),
    "terms": ("groundwire.terms_page.command", "terms", "Make an HTML page to read of what a detector looks at."),
    "calibrate": (
        "groundwire.training.commands",
        "calibrate",
        "Fit score and thresholds to answers you have labelled.",
    ),
    "make-data": (
        "groundwire.training.commands",
        "make_data",
        "Make labelled answers from texts of your own, without labellers.",
    ),
    "train": (
        "groundwire.training.commands",
        "train",
        "Train a dictionary, a detector or a checking reader for your model and data.",
    ),
    "serve": ("groundwire.server.command", "serve", "Serve an OpenAI-compatible API whose answers carry verdicts."),
}
# Module that may be absent: (distribution, extra that brings it)
EXTRAS = {
    "interpret": ("interpret-core", "train"),
    "sklearn": ("scikit-learn", "train"),
    "scipy": ("scipy", "train"),
    "fastapi": ("fastapi", "server"),
    "prometheus_client": ("prometheus-client", "server"),
    "pydantic": ("pydantic", "server"),
    "pydantic_core": ("pydantic", "server"),
    "pydantic_settings": ("pydantic-settings", "server"),
    "starlette": ("starlette", "server"),
    "uvicorn": ("uvicorn", "server"),
}


@contextmanager
def missing_extras() -> Iterator[None]:
    """A module of `EXTRAS` that cannot be imported becomes a MissingExtra; any other ImportError stays what it is."""
    try:
        yield
    except ModuleNotFoundError as error:
        top = str(error.name).partition(".")[0]
        if top not in EXTRAS:
            raise
        raise MissingExtra(*EXTRAS[top]) from error


class LazyGroup(click.Group):
    """A group whose commands are imported on first use; `lazy` as in `COMMANDS`."""

    def __init__(self, *args: object, lazy: Mapping[str, tuple[str, str, str]], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return None
        module, attribute, _ = self.lazy[name]
        with missing_extras():
            return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> Any:
        with missing_extras():  # commands import what is heavy when they run
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self.lazy.items()])


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="groundwire")
def cli() -> None:
    """Does a language model's answer stay with the passages it was given?

    Groundwire reads the model's own activations while it generates (or replays) an answer, and says how likely the
    answer is unfaithful to its passages, which characters are, and why.

    Start with `groundwire demo`.
    """


def main() -> None:
    """Run the command line; a GroundwireError becomes its message and exit code 2."""
    keep_freed_memory()
    try:
        cli(prog_name="groundwire")
    except GroundwireError as error:
        click.echo(f"groundwire: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
