"""`groundwire train`: a dictionary from unlabelled text, a detector from labelled answers; `groundwire calibrate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from groundwire.engines.reader import DTYPES

FOLDER = click.Path(file_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def train() -> None:
    """Train a dictionary, a detector or a checking reader. Each command continues where it was interrupted."""


@train.command()
@click.argument("text", type=FILE)
@click.option("-o", "--output", "folder", required=True, type=FOLDER, help="Folder for dictionary, report and work.")
@click.option("--model", help="Folder or Hugging Face id. [default: the embedded SmolLM2-135M-Instruct]")
@click.option("--hookpoint", default="model.layers.18", show_default=True, help="Submodule whose output is learned.")
@click.option("--tokens", type=COUNT, default=3_200_000, show_default=True, help="Training tokens.")
@click.option(
    "--held-out-tokens", type=COUNT, default=500_000, show_default=True, help="Tokens of other documents to report on."
)
@click.option("--latents", type=COUNT, default=4096, show_default=True, help="Width of the dictionary.")
@click.option("--k", type=COUNT, default=60, show_default=True, help="Mean number of active latents per token.")
@click.option("--epochs", type=COUNT, default=2, show_default=True, help="Passes over the activations.")
@click.option(
    "--rag-share",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of documents set as RAG prompts.",
)
@click.option(
    "--context",
    type=COUNT,
    default=512,
    show_default=True,
    help="Tokens per plain window; RAG prompts may take double.",
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    default="float32",
    show_default=True,
    help="Of the model's weights while training activations are collected.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--seed", default=0, show_default=True)
def sae(text: Path, folder: Path, **options: Any) -> None:
    """Train a dictionary on TEXT, a JSONL file (plain or .gz) with a `text` and, if there is one, a `title` per line.

    Writes cfg.json and sae_weights.safetensors (SAELens layout, JumpReLU) and report.json, measured on documents that
    were not trained on. Activations are kept in FOLDER/activations; delete them when you are done.
    """
    from groundwire.training.dictionary import DictionaryRun, train_dictionary

    report = train_dictionary(text, folder, DictionaryRun(**options))
    click.echo(json.dumps(report, indent=1))


@train.command()
@click.argument("labelled", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", "folder", required=True, type=FOLDER, help="Folder for the detector.")
@click.option("--dictionary", required=True, type=click.Path(path_type=Path), help="Dictionary, in a published layout.")
@click.option("--work", type=FOLDER, help="Folder for features. [default: OUTPUT.work]")
@click.option("--model", help="Folder or Hugging Face id. [default: the embedded SmolLM2-135M-Instruct]")
@click.option("--hookpoint", help="Submodule the dictionary belongs to. [default: the dictionary's own]")
@click.option(
    "--label-text",
    type=FOLDER,
    help="Activations to name the latents by: activations/training in the output of `train sae`.",
)
@click.option("--id", "detector_id", help="Name of the detector. [default: the model's id]")
@click.option("--detector-version", default="1", show_default=True)
@click.option(
    "--recipe",
    type=click.Choice(["tokens", "raglens"]),
    default="tokens",
    show_default=True,
    help="tokens: additive per token, on spans and labels. raglens: the paper's, on labels alone.",
)
@click.option("--latents", type=COUNT, help="Latents to keep. [default: 512; 1000 for raglens]")
@click.option("--tokens", multiple=True, metavar="DATASET=N", help="Most tokens of a data set to fit on; repeatable.")
@click.option("--licence", "licences", multiple=True, metavar="DATASET=LICENCE", help="For the card; repeatable.")
@click.option("--jobs", default=1, show_default=True, help="Processes for fitting.")
@click.option("--seed", default=0, show_default=True)
def detector(labelled: tuple[Path, ...], folder: Path, **options: Any) -> None:
    """Train a detector on LABELLED answers (JSONL).

    Each line is a row as `groundwire score` reads it and a `label` (1 = unfaithful), optionally `spans` (a list of
    {"start", "end"}), `group` (the rows of one source never straddle a split) and `generator`.
    """
    from groundwire.training.run import DetectorRun, run_detector

    figures = run_detector(labelled, folder, DetectorRun(**options))
    click.echo(json.dumps(figures, indent=1))


@train.command()
@click.argument("labelled", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", "folder", required=True, type=FOLDER, help="Folder for the detector.")
@click.option(
    "--base",
    type=FOLDER,
    help="Detector whose own reading, dictionary and latents' names are kept. [default: the one that ships]",
)
@click.option("--dictionary", type=click.Path(path_type=Path), help="Dictionary. [default: the base's `dictionary`]")
@click.option("--work", type=FOLDER, help="Folder for adapter and activations. [default: OUTPUT.work]")
@click.option("--model", help="Folder or Hugging Face id. [default: the base detector's]")
@click.option("--steps", type=COUNT, default=1500, show_default=True, help="Training steps.")
@click.option("--step-tokens", type=COUNT, default=450, show_default=True, help="Answer tokens of a step, about.")
@click.option("--rank", type=COUNT, default=16, show_default=True, help="Rank of the adapter.")
@click.option(
    "--focus",
    type=click.IntRange(0, 20),
    default=2,
    show_default=True,
    help="Passage sentences that a sentence of an answer is read with; 0 for all.",
)
@click.option("--go-on", is_flag=True, help="Begin with the base's adapter, where it has one, in place of a new one.")
@click.option("--weight", "weights", multiple=True, metavar="DATASET=N", help="How often it is drawn from; repeatable.")
@click.option("--licence", "licences", multiple=True, metavar="DATASET=LICENCE", help="For the card; repeatable.")
@click.option("--detector-version", "version", default="1", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--seed", default=0, show_default=True)
def reader(labelled: tuple[Path, ...], folder: Path, **options: Any) -> None:
    """Train a checking reader on LABELLED answers (JSONL), and put it into a detector.

    A low-rank adapter on the answer's tokens learns to tell what the passages do not support; a head of latents is
    fitted on its residual stream. Rows are as in `train detector`; `pair`, the id of the faithful answer that an
    unfaithful one was made from, helps much (`groundwire make-data` writes it). A fifth of the groups is kept for
    figures and never looked at (a tenth of made rows), three in twenty calibrate. Goes on where it was interrupted.
    """
    from groundwire.training.reader import ReaderRun, run_reader

    figures = run_reader(labelled, folder, ReaderRun.of(folder, **options))
    click.echo(json.dumps(figures, indent=1))


@click.command(name="make-data")
@click.argument("texts", type=FILE, nargs=-1)
@click.option("-o", "--output", required=True, type=FILE, help="JSONL file for the rows.")
@click.option("--rows", type=COUNT, default=20_000, show_default=True, help="Rows to make, about.")
@click.option("--templates/--no-templates", default=True, show_default=True, help="Use the templates that ship.")
@click.option("--seed", default=0, show_default=True)
def make_data(texts: tuple[Path, ...], output: Path, **options: Any) -> None:
    """Make labelled answers without labellers: from TEXTS of your own (JSONL with `text`), and from templates.

    Of your texts, passages are cut, and faithful answers made of their sentences; unfaithful ones differ by one
    coherent mistake whose place is known. Templates give documents of many kinds with facts said rightly in several
    ways and wrongly in several. Pairs by which words alone would tell the mistake are dropped. Prints what was made.
    """
    from groundwire.training.making.run import MakeRun, make

    click.echo(json.dumps(make(texts, output, MakeRun(**options)), indent=1))


@click.command()
@click.argument("labelled", type=FILE, nargs=-1, required=True)
@click.option("-o", "--output", "folder", required=True, type=FOLDER, help="Folder for the recalibrated detector.")
@click.option("--artifact", type=FOLDER, help="Detector to start from. [default: the one that ships with Groundwire]")
@click.option("--model", help="Folder or Hugging Face id of the model to read. [default: the detector's]")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Parts for cross-validation.")
@click.option("--overwrite", is_flag=True, help="Replace a detector that is in OUTPUT.")
@click.option("--seed", default=0, show_default=True, help="Of the folds and the bootstrap.")
def calibrate(labelled: tuple[Path, ...], folder: Path, **options: Any) -> None:
    """Fit score and thresholds of a detector to LABELLED answers of your own.

    Each line of LABELLED (JSONL, plain or .gz) is a row as `groundwire score` reads it and a `label` (1 = unfaithful,
    0 = faithful), optionally a `group` (rows of one source; by default, of one prompt) and a `dataset` (by default, the
    file's name). Data sets weigh the same, however many rows they have. A few hundred rows are enough; with few, the
    result stays close to the detector as it was.

    Nothing is trained: the score's scale and shift, the thresholds and the reference share of unfaithful answers are
    fitted anew. The order of answers, the terms and the spans stay. Prints what it is worth, on rows it was not fitted
    on, beside what the detector was worth before.

    Exit code: 0 all lines were readable, 1 the detector was written but some lines could not be read, 2 the command
    failed.
    """
    from groundwire.training.calibrate_run import CalibrateRun, run_calibrate

    done = run_calibrate(labelled, folder, CalibrateRun(**options))
    click.echo(done.report)
    if done.unreadable:
        raise SystemExit(1)
