"""The RAGLens recipe on one labelled data set: out-of-fold figures with their interval, beside what needs no model.

    python benchmarks/raglens.py ragtruth-qa.jsonl --dictionary DICTIONARY --work WORK \\
        -o benchmarks/results/raglens-ragtruth-qa.json

Grouped 5-fold cross-validation, with selection and fit inside each fold. Features are kept in WORK, so an interrupted
run continues. Calibration and threshold are chosen on the out-of-fold logits of the same rows: one scale, one shift
and one threshold, which ranking figures (AUC) do not depend on.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import DictionaryError, GroundwireError
from groundwire.sae import Dictionary, load_dictionary
from groundwire.training.calibrate import calibrate
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.detector import FOLDS, out_of_fold
from groundwire.training.features import Features, collect_features
from groundwire.training.metrics import figures
from groundwire.training.tokens import calibrate_tokens

LIBRARIES = ("groundwire", "torch", "transformers", "interpret-core", "scikit-learn", "numpy")
DICTIONARY_COLUMNS = {
    "training_tokens": "training tokens",
    "latents": "latents",
    "l0": "L0",
    "fraction_of_variance_unexplained": "variance unexplained",
    "dead": "dead latents",
    "loss_recovered": "loss recovered",
    "held_out_tokens": "held-out tokens",
}
FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


def measure(
    tokenizer: Any, examples: list[LabelledExample], features: Features, *, latents: int, seed: int, jobs: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Out-of-fold figures of the recipe: of responses, and of tokens and spans where they are labelled."""
    labels = np.array([example.label for example in examples])
    with tqdm(total=FOLDS, unit="fold", disable=None) as bar:
        unseen = out_of_fold(features, examples, n_latents=latents, seed=seed, n_jobs=jobs, done=bar.update)
    groups, datasets = np.array([e.group for e in examples]), np.array([e.dataset for e in examples])
    calibrated = calibrate(unseen.logits, labels, groups, datasets)
    threshold = calibrated.thresholds["balanced_accuracy"]
    tokens = calibrate_tokens(tokenizer, examples, [calibrated.scale * sums for sums in unseen.token_sums])
    return figures(examples, calibrated.scores(unseen.logits), threshold, seed=seed), tokens.figures


def tables(name: str, found: dict[str, Any], tokens: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What the README shows, a row for each of its tables."""
    priors = found["priors"]
    raglens = {
        "data set": name,
        "rows": found["rows"],
        "AUC": found["auc"],
        "95 % interval": found["auc_interval"],
        "within generator": found["auc_within_generator"],
        "length": priors["length"],
        "generator": priors["generator"],
        "absent words": priors["absent_words"],
        "absent bigrams": priors["absent_bigrams"],
    }
    rows = {"raglens": [raglens]}
    if tokens["token_auc"] is not None:
        rows["tokens"] = [{"data set": name, "token AUC": tokens["token_auc"], "span F1": tokens["span_f1"]}]
    if "loss_recovered" in report:
        rows["dictionary"] = [{title: report[key] for key, title in DICTIONARY_COLUMNS.items()}]
    return rows


def provenance(data: Path, dictionary: Dictionary, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What made the figures. File names without folders: results are published, machines are not."""
    report = folder / "report.json"
    return {
        "command": " ".join(["python benchmarks/raglens.py", data.name, *(f"--{k} {v}" for k, v in options.items())]),
        "data": {"name": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "dictionary": json.loads(report.read_text(encoding="utf-8"))
        if report.is_file()
        else {"n_latents": dictionary.n_latents, **dictionary.metadata},
    }


@click.command()
@click.argument("data", type=FILE)
@click.option("--dictionary", "folder", required=True, type=FOLDER, help="What `groundwire train sae` wrote.")
@click.option("--work", required=True, type=FOLDER, help="Folder for features.")
@click.option("-o", "--output", required=True, type=FILE, help="Results, JSON.")
@click.option("--model", help="Folder or Hugging Face id. [default: the embedded SmolLM2-135M-Instruct]")
@click.option("--latents", type=click.IntRange(min=1), default=1000, show_default=True, help="Latents to keep.")
@click.option("--seed", default=0, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Processes for fitting.")
def main(
    data: Path, folder: Path, work: Path, output: Path, model: str | None, latents: int, seed: int, jobs: int
) -> None:
    """Measure the RAGLens recipe on DATA (labelled JSONL), out of fold."""
    examples = read_labelled(data)
    dictionary = load_dictionary(folder)
    if dictionary.hookpoint is None:
        raise DictionaryError(f"{folder} does not say its hookpoint", expected="hook_name in cfg.json")
    engine = TransformersEngine(load_reader(model), dictionary.hookpoint)
    features = collect_features(engine, dictionary, examples, work)
    found, tokens = measure(engine.tokenizer, examples, features, latents=latents, seed=seed, jobs=jobs)
    options = {"dictionary": folder.name, "latents": latents, "seed": seed}
    result = {
        "title": f"RAGLens recipe, {data.stem}, {FOLDS}-fold by group, out of fold",
        "reader": {"id": engine.model_id, "hookpoint": engine.hookpoint},
        "seed": seed,
        "latents": latents,
        **(made := provenance(data, dictionary, folder, options)),
        "figures": found,
        "tokens": tokens,
        "tables": tables(data.stem, found, tokens, made["dictionary"]),
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"raglens: {error}")
