"""The `groundwire score` command."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

from groundwire.batch.column_options import column_options, columns_of
from groundwire.engines.reader import DTYPES
from groundwire.errors import GroundwireError

if TYPE_CHECKING:
    from groundwire.batch.crew import Crew
    from groundwire.batch.described import Described
    from groundwire.batch.recipe import Recipe
    from groundwire.batch.summary import Summary
    from groundwire.batch.unit import BatchDetector, Options


@click.command()
@click.argument("source", metavar="IN...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option(
    "-o",
    "--output",
    "target",
    metavar="OUT",
    required=True,
    type=click.Path(allow_dash=True),
    help='File to write the verdicts to: .jsonl, .jsonl.gz, .jsonl.zst or .parquet; "-" writes standard output.',
)
@column_options
@click.option(
    "--artifact", metavar="FOLDER", help="Detector to score with. [default: the one that ships with Groundwire]"
)
@click.option(
    "--model", metavar="MODEL", help="Folder or Hugging Face id of the model to read. [default: the detector's]"
)
@click.option(
    "--threshold",
    metavar="NUMBER",
    type=click.FloatRange(0, 1),
    help="Flag rows with a score above this. [default: the detector's]",
)
@click.option(
    "--reading",
    type=click.Choice(["checking", "own"]),
    help="Who judges: a second pass over the answer with the detector's adapter, or the model's own pass. "
    "[default: checking, where the detector has it]",
)
@click.option("--tokens", is_flag=True, help="Write the score of every token as well.")
@click.option(
    "--long-prompts",
    type=click.Choice(["windows", "skip"]),
    default="windows",
    show_default=True,
    help="Prompts beyond the model's context: score their passages in windows, or do not check them.",
)
@click.option(
    "--features",
    metavar="FILE",
    type=click.Path(),
    help="Write the activations behind the verdicts as well, to this Parquet file.",
)
@click.option(
    "--features-of",
    type=click.Choice(["response", "token"]),
    default="response",
    show_default=True,
    help="Activations of each answer (mean and maximum over its tokens), or of each token.",
)
@click.option(
    "--engine",
    type=click.Choice(["transformers", "vllm"]),
    default="transformers",
    show_default=True,
    help="What runs the model. vLLM is for GPUs; it takes the device it finds.",
)
@click.option(
    "--engine-option",
    "engine_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="With --engine vllm: an argument of vllm.LLM, such as gpu_memory_utilization=0.8; repeatable.",
)
@click.option("--device", metavar="DEVICE", default="cpu", show_default=True, help="Where the model runs: cpu, cuda.")
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default="float32; with --engine vllm its own choice",
    help="Numbers the model computes with.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes (with --runner ray: actors) that score, each with its own model.",
)
@click.option(
    "--runner",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Score on this machine, or on a Ray cluster.",
)
@click.option(
    "--ray-address", metavar="ADDRESS", help="Ray cluster to use. [default: RAY_ADDRESS, else one is started here]"
)
@click.option(
    "--gpus-per-worker",
    metavar="NUMBER",
    type=click.FloatRange(min=0),
    help="GPUs, or part of one, for a Ray actor. [default: 1 with --device cuda or --engine vllm, else 0]",
)
@click.option("--strict", is_flag=True, help="Stop at the first row that cannot be read, with exit code 2.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Continue a run that was interrupted; --no-resume refuses an OUT that exists, or part of one.",
)
@click.option("--overwrite", is_flag=True, help="Begin anew: replace OUT, or what an interrupted run left of it.")
def score(
    source: tuple[str, ...],
    target: str,
    artifact: str | None,
    model: str | None,
    threshold: float | None,
    reading: Any,
    tokens: bool,
    long_prompts: str,
    features: str | None,
    features_of: Literal["response", "token"],
    engine: str,
    engine_options: tuple[str, ...],
    device: str,
    dtype: str,
    workers: int,
    runner: str,
    ray_address: str | None,
    gpus_per_worker: float | None,
    strict: bool,
    resume: bool,
    overwrite: bool,
    **columns: str | None,
) -> None:
    """Say for every answer in IN whether it stays with its passages.

    IN is a file, a quoted glob, or several: JSONL (one JSON object per line) or CSV, plain, .gz or .zst, or Parquet;
    "-" reads JSONL from standard input. Each row holds the answer and what was asked, the passages included, in one
    of these ways:

    \b
      {"id": 1, "prompt": "...", "response": "..."}
      {"id": 1, "messages": [{"role": "user", "content": "..."}], "response": "..."}
      {"id": 1, "context": ["...", "..."], "question": "...", "response": "..."}
      {"request": {"messages": [...]}, "response": {"choices": [...]}}

    The last is an OpenAI call as logged, or as the batch API writes it. In a cell of CSV, lists are written as JSON.
    Other fields are ignored. OUT gets one line per row, in the same order:

    \b
      {"id": 1, "hallucination": {"status": "checked", "score": 0.83, "flagged": true, "spans": [...], ...}}

    The score is the probability that the answer is NOT faithful to its passages. A row that cannot be checked says
    "not_checked" and why. Rows of one prompt are scored together where they stand within some thousand rows.

    Rows are on disk as soon as they are finished: in OUT.partial, as JSONL in the input's order, and before their turn
    in OUT.ahead. It becomes OUT when all are. Whatever ended a run, the same command continues it; OUT.run, which
    stays, says what it was: another detector, option, column or input is refused. Standard output is not continued.

    Exit code: 0 all rows were readable, 1 all rows were written but some of them could not be read, 2 the command
    failed, 130 or 143 interrupted.
    """
    from groundwire.batch.features_file import check_features
    from groundwire.batch.reader import check_source
    from groundwire.batch.recipe import Recipe
    from groundwire.batch.score import score_file
    from groundwire.batch.sources import expand
    from groundwire.batch.unit import Options
    from groundwire.batch.writer import check_target

    source = tuple(each.path for each in expand(source))
    check_source(source)  # here as well, so that a wrong path fails before the model is loaded
    check_target(target, source=source, overwrite=overwrite, resume=resume)
    if features:
        check_features(features, others=[target, *source], overwrite=overwrite, resume=resume)
    if runner == "local" and (ray_address or gpus_per_worker is not None):
        raise click.UsageError("--ray-address and --gpus-per-worker are for --runner ray")
    context = click.get_current_context()
    chosen = {name for name in ("device", "dtype") if context.get_parameter_source(name) != ParameterSource.DEFAULT}
    if engine == "vllm" and "dtype" not in chosen:
        dtype = "auto"
    _check_engine(engine, engine_options, dtype, runner, workers, chosen)
    given = tuple(_option(each) for each in engine_options)
    try:
        with _terminable(), ExitStack() as stack:
            recipe = Recipe(
                artifact, model, device=device, dtype=dtype, reading=reading, engine=engine, engine_options=given
            )
            here = recipe.load() if runner == "local" and workers == 1 else None
            if threshold is None:
                threshold = here.threshold if here else recipe.read_threshold()
            options = Options(
                threshold,
                tokens=tokens,
                passage_windows=long_prompts == "windows",
                features=features_of if features else None,
            )
            crew: Crew | None = None
            if here is None:
                crew = _crew(recipe, options, runner, workers, address=ray_address, gpus=gpus_per_worker)
                detector: BatchDetector | Described = stack.enter_context(crew).describe()
            else:
                detector = here
            summary = score_file(
                detector,
                source,
                target,
                columns=columns_of(columns),
                options=options,
                runner=crew,
                features=features,
                strict=strict,
                resume=resume,
                overwrite=overwrite,
            )
    except (GroundwireError, KeyboardInterrupt) as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(note, err=True)
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(143 if isinstance(error, Terminated) else 130) from error
        raise
    click.echo(report(summary, target), err=True)
    if summary.invalid:
        raise SystemExit(1)


def _check_engine(
    engine: str, options: tuple[str, ...], dtype: str, runner: str, workers: int, chosen: set[str]
) -> None:
    if engine != "vllm":
        if options:
            raise click.UsageError("--engine-option is for --engine vllm")
        return
    if "device" in chosen:
        raise click.UsageError("--device with --engine vllm: it takes the device it finds (CUDA_VISIBLE_DEVICES)")
    if dtype == "int8":
        raise click.UsageError("--dtype int8 is for --engine transformers; vLLM takes --engine-option quantization=...")
    if runner == "local" and workers > 1:
        raise click.UsageError(
            "--workers with --engine vllm: it batches by itself. Use --engine-option tensor_parallel_size=N, "
            "or --runner ray for an engine on each GPU"
        )


def _option(given: str) -> tuple[str, Any]:
    """An argument of vllm.LLM: its value as JSON, else as text."""
    name, equals, value = given.partition("=")
    if not equals or not name.isidentifier():
        raise click.UsageError(f"--engine-option {given!r}: expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is done here like Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _crew(
    recipe: Recipe, options: Options, runner: str, workers: int, *, address: str | None, gpus: float | None
) -> Crew:
    if runner == "ray":
        from groundwire.batch.ray_runner import RayRunner

        return RayRunner(recipe, options, workers=workers, address=address, gpus=gpus)
    from groundwire.batch.workers import WorkersRunner

    return WorkersRunner(recipe, options, workers=workers)


def report(summary: Summary, target: str) -> str:
    """The summary as a few lines to read."""
    from groundwire.batch.origins import unlike
    from groundwire.counts import shown

    flagged = f"{summary.flagged} ({summary.flagged / summary.checked:.1%} of checked)" if summary.checked else "0"
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.not_checked.most_common())
    scored = summary.rows - summary.earlier
    speed = f"{scored / summary.seconds:.1f} rows/s" if summary.seconds and scored else "-"
    lines = [
        ("rows", f"{summary.rows}" + (f" ({summary.earlier} of them scored earlier)" if summary.earlier else "")),
        ("checked", str(summary.checked)),
        ("flagged", flagged),
        ("not checked", f"{summary.not_checked.total()}" + (f" ({reasons})" if reasons else "")),
        ("unlike", unlike(summary.counts.all)),
        ("unfaithful", shown(summary.counts.corrected())),
        ("time", f"{summary.seconds:.1f} s, {speed}"),
        ("written to", target),
    ]
    text = "\n".join([*(f"{name:<12} {value}" for name, value in lines), *summary.counts.lines()])
    if summary.complete:
        text = f"all rows were scored already, with these settings; nothing was changed\n{text}"
    if summary.invalid:
        text += f"\n{summary.invalid} rows could not be read; their `detail` in {target} says why"
        text += "".join(f"\n  {each}" for each in summary.unreadable)
        left = summary.invalid - len(summary.unreadable)
        text += f"\n  and {left} more" if left > 0 else ""
    return text
