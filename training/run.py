"""`groundwire train detector`, from files to an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from groundwire.artifact import Artifact
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import DictionaryError, InputError
from groundwire.prompts import render
from groundwire.sae import Dictionary, check_fit, load_dictionary
from groundwire.training.activations import without_sinks
from groundwire.training.card import render_card
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.detector import FOLDS, figures_by_set, train_detector
from groundwire.training.features import collect_features
from groundwire.training.head import HeadOptions
from groundwire.training.labels import label_latents
from groundwire.training.pack import pack
from groundwire.training.pipeline import KEPT_BACK, fit
from groundwire.training.response import measure
from groundwire.training.rows import collect_rows, join

RECIPES = ("tokens", "raglens")
TOKEN_LIMITS = (
    "It errs: the figures above are what to expect on answers like those it was trained on; elsewhere expect less, and "
    "run `groundwire calibrate` on a few hundred labelled answers of your own.",
    "A verdict marked unlike_training lies farther from the training answers than 99 % of those kept back.",
    "Scores assume the reference share of unfaithful answers above; shift it to yours.",
    "The span rule and the figures of tokens come from the same answers, those kept back.",
    "Limits on false alarms hold for new questions like those kept back, on average over draws of them.",
    "A reader of this size judges what it can follow: long passages, arithmetic, negation, swapped names and other "
    "languages than English are beyond what was measured.",
    "A term that raises the score is evidence, not a cause.",
)
LIMITS = (
    "It errs: the figures above are what to expect on answers like those it was trained on; elsewhere expect less.",
    "Each latent counts with its maximum over the response, so long answers score higher than short ones whatever they "
    "say; answers of a sentence or two are hardly ever flagged.",
    "Threshold, calibration and span rule were chosen on the out-of-fold scores they are reported on; AUC does not "
    "depend on them.",
    "A reader of this size judges what it can follow: long passages, arithmetic and other languages than English are "
    "beyond what was measured.",
    "A term that raises the score is evidence, not a cause.",
    "Spans come from where the strongest latents peak; they point at a place more often than they bound an error.",
)
RAGLENS_LATENTS = 1000  # as in the paper
FIT_PROMPTS = 8  # prompts on which the dictionary has to rebuild the residual before anything is trained on it


@dataclass(frozen=True)
class DetectorRun:
    """The options of `groundwire train detector`. tokens: most tokens of a data set by its name (recipe "tokens")."""

    dictionary: Path
    work: Path | None
    model: str | None
    hookpoint: str | None
    label_text: Path | None
    detector_id: str | None
    detector_version: str
    latents: int | None
    licences: tuple[str, ...]
    jobs: int
    seed: int
    recipe: str = "tokens"
    tokens: tuple[str, ...] = ()


def run_detector(labelled: Sequence[Path], folder: Path, run: DetectorRun) -> dict[str, Any]:
    """Train on the rows of all files; write the artifact to `folder`; return its figures.

    Raises DictionaryError where the dictionary does not rebuild the model's activations on the rows' own prompts, and
    InputError on unusable rows, a folder without activations or a licence without its data set.
    """
    shards, licences = _label_shards(run.label_text), licences_of(run.licences)
    _limits(run.tokens)
    examples = [example for path in labelled for example in read_labelled(path)]
    dictionary = load_dictionary(run.dictionary, hookpoint=run.hookpoint)
    if dictionary.hookpoint is None:
        raise DictionaryError(
            f"{run.dictionary} does not say which hookpoint it belongs to",
            expected="a dotted submodule path such as model.layers.18",
            remedy="pass it as --hookpoint",
        )
    reader = load_reader(run.model)
    engine = TransformersEngine(reader, dictionary.hookpoint)
    check_fit(dictionary, _sample_rows(engine, examples))
    work = run.work or Path(f"{folder}.work")
    recipe = _raglens if run.recipe == "raglens" else _by_token
    made = recipe(examples, dictionary, engine, work, run, shards, _training(examples, licences))
    replace(made, card=render_card(_card(made))).save_pretrained(folder)
    return {"figures": made.about["figures"], "tokens": made.about["tokens"]}


def _by_token(
    examples: list[LabelledExample],
    dictionary: Dictionary,
    engine: TransformersEngine,
    work: Path,
    run: DetectorRun,
    shards: list[Path],
    training: list[dict[str, Any]],
) -> Artifact:
    options = HeadOptions(tokens=_limits(run.tokens), **({"latents": run.latents} if run.latents else {}))
    by_set = {e.dataset: [x for x in examples if x.dataset == e.dataset] for e in examples}
    rows = join([collect_rows(engine, own, work / "rows" / name) for name, own in by_set.items()])
    ordered = [e for own in by_set.values() for e in own]
    with tqdm(total=options.rounds + 2, unit="fit", desc="detector", disable=None) as bar:
        fitted = fit(dictionary, ordered, rows, engine.tokenizer, options, seed=run.seed, done=bar.update)
    held_out = [ordered[i] for i in fitted.held_out]
    logits, _ = fitted.logits(rows.take(fitted.held_out), measure(held_out))
    threshold = fitted.calibrated.thresholds["balanced_accuracy"]
    split = f"kept back: 1 in {KEPT_BACK} groups"
    scores = 1 / (1 + np.exp(-logits))
    return pack(
        fitted,
        ordered,
        rows,
        engine,
        detector_id=run.detector_id or engine.model_id,
        version=run.detector_version,
        describe=lambda ids: label_latents(dictionary, ids, shards, engine.model, engine.tokenizer),
        about={
            "recipe": "token-level additive head, window pooling, grounding terms",
            "dictionary": _about(dictionary, options.latents),
            "training": training,
            "options": asdict(options),
            "seed": run.seed,
            "figures": figures_by_set(held_out, scores, threshold, split, run.seed),
        },
    )


def _raglens(
    examples: list[LabelledExample],
    dictionary: Dictionary,
    engine: TransformersEngine,
    work: Path,
    run: DetectorRun,
    shards: list[Path],
    training: list[dict[str, Any]],
) -> Artifact:
    latents = run.latents or RAGLENS_LATENTS
    features = collect_features(engine, dictionary, examples, work / "features")
    about = {
        "recipe": "RAGLens (arXiv 2512.08892)",
        "dictionary": _about(dictionary, latents),
        "training": training,
        "seed": run.seed,
    }
    with tqdm(total=FOLDS + 1, unit="fit", desc="detector", disable=None) as bar:
        return train_detector(
            examples,
            features,
            dictionary,
            engine,
            detector_id=run.detector_id or engine.model_id,
            version=run.detector_version,
            n_latents=latents,
            describe=lambda ids: label_latents(dictionary, ids, shards, engine.model, engine.tokenizer),
            about=about,
            seed=run.seed,
            n_jobs=run.jobs,
            done=bar.update,
        )


def _about(dictionary: Dictionary, latents: int) -> dict[str, Any]:
    return {
        "n_latents": dictionary.n_latents,
        "latents_kept": min(latents, dictionary.n_latents),
        **dictionary.metadata,
    }


def _label_shards(folder: Path | None) -> list[Path]:
    shards = sorted(folder.glob("shard-*.safetensors")) if folder else []
    if folder and not shards:
        raise InputError(
            f"{folder} holds no shard of activations",
            expected="shard-00000.safetensors and so on",
            remedy="pass the folder activations/training in what `groundwire train sae` wrote",
        )
    return shards


def licences_of(given: Sequence[str]) -> dict[str, str]:
    """Licences by data set. Raises InputError on one without its data set."""
    for item in given:
        if "=" not in item:
            raise InputError(f"--licence {item!r}", expected="DATASET=LICENCE, such as ragtruth-qa=MIT")
    return dict(item.partition("=")[::2] for item in given)


def _limits(given: Sequence[str]) -> dict[str, int]:
    found = {}
    for item in given:
        name, _, most = item.partition("=")
        if not most.isdecimal() or not name:
            raise InputError(f"--tokens {item!r}", expected="DATASET=N, such as summedits=8000")
        found[name] = int(most)
    return found


def _sample_rows(engine: TransformersEngine, examples: Sequence[LabelledExample]) -> Tensor:
    """Rows of the first few prompts, without attention sinks: what the dictionary has to rebuild."""
    prompts = list(dict.fromkeys(tuple(render(engine.tokenizer, example.messages)) for example in examples[:200]))
    parts = []
    for ids in prompts[:FIT_PROMPTS]:
        rows = engine.read(ids[: engine.context])
        first = torch.zeros(len(rows), dtype=torch.bool)
        first[0] = True
        parts.append(rows[without_sinks(rows, first)])
    return torch.cat(parts)


def _training(examples: Sequence[LabelledExample], licences: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for dataset in dict.fromkeys(example.dataset for example in examples):
        own = [example for example in examples if example.dataset == dataset]
        rows.append(
            {
                "dataset": dataset,
                "rows": len(own),
                "unfaithful": sum(example.label for example in own),
                "groups": len({example.group for example in own}),
                "license": licences.get(dataset, "not stated"),
            }
        )
    return rows


def _card(artifact: Artifact) -> dict[str, Any]:
    """What `render_card` asks for, from what the artifact records."""
    about, by_maximum = artifact.about, artifact.scorer.pooling.kind == "max"
    names = ", ".join(entry["dataset"] for entry in about["training"])
    return {
        "id": artifact.id,
        "version": artifact.version,
        "license": "apache-2.0",
        "summary": f"A Groundwire detector for {artifact.model}, fitted on {names} by the recipe {about['recipe']}.",
        "model": {"id": artifact.model, "hookpoint": artifact.hookpoint},
        "dictionary": {
            "source": f"trained on {about['dictionary'].get('training_tokens', 'an unstated number of')} tokens",
            "latents": about["dictionary"]["n_latents"],
            "chosen": sum(term.kind == "latent" for term in artifact.terms),
            "activation": "pre-activations, maximum over response tokens"
            if by_maximum
            else "pre-activations, per token",
        },
        "training": about["training"],
        "figures": about["figures"],
        "calibration": about["calibration"],
        "thresholds": artifact.thresholds,
        "limits": LIMITS if by_maximum else TOKEN_LIMITS,
    }
