"""`groundwire train reader`, from labelled answers to an artifact with a checking reader.

rows ─ by group ─▶ training     adapter and readings           (checking.py)
                   calibration  head, response model, scale,   (checking_head.py)
                                thresholds, span rule
                   kept         figures on the card
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from groundwire.artifact import Artifact, Probe
from groundwire.batch.identity import digest
from groundwire.binding import Fault, bounds
from groundwire.detector import DEFAULT_ARTIFACT, Detector
from groundwire.engines.reader import load_reader
from groundwire.engines.transformers import TransformersEngine
from groundwire.errors import InputError
from groundwire.prompts import tokenize_response
from groundwire.sae import Dictionary, load_dictionary
from groundwire.scoring import Pooling, Scorer
from groundwire.sentences import sentence_ends
from groundwire.training.calibrate import Calibrated, calibrate
from groundwire.training.card import render_card
from groundwire.training.checking import Checking, CheckingOptions, train_checking
from groundwire.training.checking_head import (
    BINDING,
    DIRECTIONS,
    WINDOW,
    CheckingHead,
    SentenceModel,
    Sentences,
    distil,
    fault_sizes,
    find_faults,
    fit_sentences,
)
from groundwire.training.data import LabelledExample, Part, part_of, read_labelled
from groundwire.training.detector import figures_by_set
from groundwire.training.lessons import Taught, taught, units
from groundwire.training.metrics import auc
from groundwire.training.pack import smoothed
from groundwire.training.response import measure
from groundwire.training.rows import TokenRows, collect_rows, join
from groundwire.training.run import licences_of
from groundwire.training.tokens import Seen, TokenCalibration, calibrate_tokens
from groundwire.types import SentenceScore, Term

GROUNDING = ("absent_share",)  # best with a data set left out, of those tried
SMOOTHINGS = (0, 1, 2, 4)
LIMITS = (
    "It errs: the figures above are what to expect on answers like those it was trained on; elsewhere expect less, and "
    "run `groundwire calibrate` on a few hundred labelled answers of your own.",
    "The verdict is that of a second pass, with an adapter: not what the model computed when it wrote.",
    "An answer is judged by its worst sentence, so long answers are flagged more often than short ones.",
    "Several hundred latents can rewrite nearly any reading of the stream: that they sum to the score explains little.",
    "Scores assume the reference share of unfaithful answers above; shift it to yours.",
    "Arithmetic, long passages and other languages than English are beyond what a reader of this size can follow.",
    "A term that raises the score is evidence, not a cause.",
)
FIGURE_ROWS, FIGURE_BATCH = 100, 64  # rows of each data set that figures are of, and how many are scored at once
MADE = ("templates", "edits")  # data sets of which more can be made
KEPT, KEPT_MADE = 0.2, 0.1  # share of the groups kept for figures
MOST_TOKENS = 1100  # of a prompt with its answer, in training
CALIBRATION_ROWS = 500  # of each data set, at most, whole prompts
LONGEST = 5000  # characters of a prompt in calibration: longer ones cost more than they tell


@dataclass(frozen=True)
class ReaderRun:
    """The options of `groundwire train reader`.

    base: the artifact that gives the model's own reading and the names of its latents. dictionary: theirs.
    weights: how often each data set is drawn from; 1 where it is not named. steps: of training.
    focus: passage sentences that a sentence of an answer is read with; 0 for the whole prompt.
    go_on: whether to begin with the base's adapter.
    """

    base: Path
    dictionary: Path
    work: Path
    model: str | None
    weights: Mapping[str, float]
    licences: Mapping[str, str]
    steps: int
    step_tokens: int
    rank: int
    version: str
    device: str
    seed: int
    focus: int
    go_on: bool = False

    @classmethod
    def of(
        cls,
        folder: Path,
        *,
        base: Path | None,
        dictionary: Path | None,
        work: Path | None,
        weights: Sequence[str],
        licences: Sequence[str],
        **rest: Any,
    ) -> ReaderRun:
        """As the command line gives it. Raises InputError on a weight or licence without its data set."""
        numbers = {}
        for item in weights:
            name, _, number = item.partition("=")
            if not name or not number.replace(".", "", 1).isdecimal():
                raise InputError(f"--weight {item!r}", expected="DATASET=NUMBER, such as templates=10")
            numbers[name] = float(number)
        base, work = base or DEFAULT_ARTIFACT, work or Path(f"{folder}.work")
        dictionary = dictionary or base / "dictionary"
        return cls(base, dictionary, work, weights=numbers, licences=licences_of(licences), **rest)


def run_reader(labelled: Sequence[Path], folder: Path, run: ReaderRun) -> dict[str, Any]:
    """Train on the rows of all files; write the artifact with its checking reader to `folder`; return its figures.

    Raises InputError on unusable rows and where a part lacks a label.
    """
    examples = [example for path in labelled for example in read_labelled(path)]
    base = Artifact.from_pretrained(run.base)
    engine = TransformersEngine(load_reader(run.model or base.model, device=run.device), base.hookpoint)
    base.check_engine(engine)
    # Some prompts are read with a sentence less or more, so that the reader does not count on their number.
    near = (max(run.focus - 1, 1), run.focus, run.focus, run.focus + 1) if run.focus else (0,)
    sources = {}
    for name, own in by_set(in_part(examples, "training")).items():
        sources[name] = (run.weights.get(name, 1.0), list(units(engine.tokenizer, own, most=MOST_TOKENS, focus=near)))
    start = base.checking.adapter if run.go_on and base.checking else None
    rank = run.rank if start is None else start.rank
    alpha = CheckingOptions.alpha if start is None else start.alpha
    options = CheckingOptions(rank, alpha, run.focus, answer_tokens=run.step_tokens, steps=run.steps, seed=run.seed)
    checking = train_checking(engine, sources, run.work / "adapter", options, start=start)
    short = [e for e in in_part(examples, "calibration") if len(e.prompt) <= LONGEST]
    held = thinned(short, CALIBRATION_ROWS, run.seed)
    dictionary = load_dictionary(run.dictionary, hookpoint=base.hookpoint)
    made = checking_artifact(base, dictionary, engine, checking, held, run.work, focus=run.focus, version=run.version)
    kept = thinned(in_part(examples, "kept"), FIGURE_ROWS, run.seed)
    about = {
        **made.about,
        "recipe": "adapter on the answer's tokens, "
        + (f"each sentence read with the {run.focus} passage sentences nearest to it, " if run.focus else "")
        + "readings at tokens and sentence ends, worst sentence",
        "dictionary": {"n_latents": dictionary.n_latents, **dictionary.metadata},
        "options": asdict(options),
        "training": _training(examples, run.licences),
        "figures": _figures(made, engine, kept, run.seed),
        "seed": run.seed,
    }
    made = replace(made, about=about)
    replace(base, checking=replace(made, card=render_card(_card(made)))).save_pretrained(folder)
    return {
        "figures": about["figures"],
        "calibration": made.about["calibration"],
        "tokens": made.about["tokens"],
        "explained": made.about["explained"],
    }


def checking_artifact(
    base: Artifact,
    dictionary: Dictionary,
    engine: TransformersEngine,
    checking: Checking,
    held: Sequence[LabelledExample],
    work: Path,
    *,
    focus: int,
    version: str,
) -> Artifact:
    """Fit the head on answers that the adapter never learned from, and pack it.

    focus: as in `ReaderRun`. The latents are those of `base`, whose names are known.
    """
    adapter = replace(
        checking.adapter, weights={k: (a.detach(), b.detach()) for k, (a, b) in checking.adapter.weights.items()}
    )
    adapter = adapter.to("cpu", torch.bfloat16).to("cpu", torch.float32)  # as it is written
    reading = engine.adapted(adapter)
    ordered = [e for own in by_set(held).values() for e in own]
    folder = work / "rows" / f"{digest(adapter)[:12]}-{focus}"  # rows of an adapter that has learned on are others
    rows = join([collect_rows(reading, own, folder / name, focus) for name, own in by_set(held).items()])
    answers = [taught(engine.tokenizer, e) for e in ordered]
    rows, ordered, answers = _spoken(rows, ordered, answers)
    ends = np.concatenate([a.ends + start for a, start in zip(answers, rows.offsets, strict=False)])
    ids = [term.feature_id for term in base.terms if term.kind == "latent" and term.feature_id is not None]
    head = distil(dictionary, ids, checking.readings, rows, ends)
    faults = find_faults(engine.tokenizer, ordered)
    sentences = Sentences.of(head, rows, answers, fault_sizes(faults))
    labels, sets = np.array([e.label for e in ordered]), np.array([e.dataset for e in ordered])
    measured = measure(ordered)
    model = fit_sentences(sentences, measured, labels, sets, GROUNDING)
    logits = model.logits(sentences, measured)
    alone = sentences.ends[sentences.worst(1.0, 0.0, [0.0] * len(BINDING))]  # the adapter's own logit
    glass = {}
    for name in by_set(ordered):
        own = sets == name
        glass[name] = {"head": auc(labels[own], logits[own]), "adapter": auc(labels[own], alone[own])}
    calibrated = calibrate(logits, labels, np.array([e.group for e in ordered]), sets)
    seen = _seen(engine.tokenizer, ordered, calibrated, model, model.of_sentences(sentences, measured), faults)
    tokens, smoothing = _tokens(engine.tokenizer, ordered, rows, head, seen)
    packed = _packed(
        base, engine, head, model, calibrated, tokens, smoothing, adapter=adapter, version=version, rows=len(ordered)
    )
    return replace(packed, focus=focus, about={**packed.about, "auc_on_calibration_rows": glass})


def by_set(examples: Sequence[LabelledExample]) -> dict[str, list[LabelledExample]]:
    """Examples by data set, in order."""
    found: dict[str, list[LabelledExample]] = {}
    for example in examples:
        found.setdefault(example.dataset, []).append(example)
    return found


def in_part(examples: Sequence[LabelledExample], part: Part) -> list[LabelledExample]:
    """The examples whose group belongs to `part`."""
    return [e for e in examples if part_of(e.group, kept=KEPT_MADE if e.dataset in MADE else KEPT) == part]


def thinned(examples: Sequence[LabelledExample], most: int, seed: int) -> list[LabelledExample]:
    """At most so many rows of each data set, whole prompts drawn at random."""
    rng = np.random.default_rng(seed)
    found = []
    for own in by_set(examples).values():
        prompts: dict[str, list[LabelledExample]] = {}
        for example in own:
            prompts.setdefault(example.prompt, []).append(example)
        taken = 0
        for key in rng.permutation(np.array(sorted(prompts), dtype=object)):
            if taken < most:
                found += prompts[key]
                taken += len(prompts[key])
    return found


def _spoken(
    rows: TokenRows, examples: list[LabelledExample], answers: list[Taught]
) -> tuple[TokenRows, list[LabelledExample], list[Taught]]:
    """Without answers that have no token."""
    at = [i for i, answer in enumerate(answers) if len(answer.ends)]
    if not at:
        raise InputError("no answer with a token", expected="labelled answers in the calibration part")
    return rows.take(at), [examples[i] for i in at], [answers[i] for i in at]


def _tokens(
    tokenizer: Any, examples: Sequence[LabelledExample], rows: TokenRows, head: CheckingHead, seen: Sequence[Seen]
) -> tuple[TokenCalibration, int]:
    """Token calibration and span rule, with the smoothing whose spans are best over the data sets that have some."""
    sums = head.sums(rows.rows, head.tokens)
    by_answer = [sums[a:b] for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]
    found = {
        half: calibrate_tokens(tokenizer, examples, [smoothed(own, half) for own in by_answer], seen)
        for half in SMOOTHINGS
    }
    best = max(found, key=lambda half: found[half].figures["span_f1"] or 0.0)
    return found[best], best


def _seen(
    tokenizer: Any,
    examples: Sequence[LabelledExample],
    calibrated: Calibrated,
    model: SentenceModel,
    logits: Sequence[np.ndarray],
    faults: Sequence[Sequence[Mapping[str, Fault]]],
) -> list[Seen]:
    """Sentences with their scores, and marks, as the detector will have them."""
    binding, found = model.binding(), []
    for example, own, theirs in zip(examples, logits, faults, strict=True):
        tokens = tokenize_response(tokenizer, example.response)
        places = bounds(tokens, sentence_ends(example.response, tokens))
        sentences = tuple(
            SentenceScore(start, end, example.response[start:end], float(score))
            for (start, end), score in zip(places, calibrated.scores(own), strict=True)
        )
        marks = binding.scaled(calibrated.scale).marks(theirs) if binding else []
        found.append(Seen(sentences, tuple(marks)))
    return found


def _packed(
    base: Artifact,
    engine: TransformersEngine,
    head: CheckingHead,
    model: SentenceModel,
    calibrated: Calibrated,
    tokens: TokenCalibration,
    smoothing: int,
    *,
    adapter: Any,
    version: str,
    rows: int,
) -> Artifact:
    scale = calibrated.scale
    end_weight, window_weight = scale * model.end_weight, scale * model.window_weight
    grounding = model.response.grounding.scaled(scale) if model.response.grounding else None
    binding = head_of.scaled(scale) if (head_of := model.binding()) else None
    names = {term.feature_id: term for term in base.terms if term.kind == "latent"}
    return Artifact(
        id=base.id,
        version=version,
        model=engine.model_id,
        fingerprint=engine.fingerprint,
        hookpoint=engine.hookpoint,
        scorer=Scorer(
            encoder=head.encoder,
            shapes=head.tokens,
            intercept=calibrated.shift,  # of sums without the head's constants
            pooling=Pooling("window", WINDOW, window_weight=window_weight),
            token_intercept=tokens.intercept,
            token_scale=tokens.scale,
            token_smoothing=smoothing,
            end_shapes=head.ends.scaled(end_weight),
        ),
        grounding=grounding,
        binding=binding,
        terms=(
            *(names[i] for i in head.feature_ids),
            *(Term("residual", name) for name in DIRECTIONS),
            *(binding.terms if binding else ()),
            *(grounding.terms if grounding else ()),
        ),
        thresholds=calibrated.thresholds,
        prevalence=calibrated.prevalence,
        spans=tokens.rule,
        probe=Probe.record(engine),
        adapter=adapter,
        latents=base.latents,
        about={
            "tokens": {**tokens.figures, "smoothing": smoothing},
            "explained": {"sentence ends": head.explained[0], "tokens": head.explained[1]},
            "weights": {
                "end": model.end_weight,
                "window": model.window_weight,
                "binding": dict(zip(BINDING, model.slopes, strict=True)),
                "grounding": list(grounding.names) if grounding else [],
            },
            "calibration": {
                "scale": scale,
                "shift": calibrated.shift,
                "prevalence": calibrated.prevalence,
                "rows": rows,
                "notes": list(calibrated.notes),
            },
        },
    )


def _figures(
    made: Artifact, engine: TransformersEngine, kept: Sequence[LabelledExample], seed: int
) -> list[dict[str, Any]]:
    """Of the artifact as a user gets it, on groups that nothing of it has seen."""
    adapter, threshold = made.adapter, made.thresholds["balanced_accuracy"]
    if adapter is None or not kept:
        return []
    detector = Detector(made, engine.adapted(adapter), threshold=threshold)
    scored = []
    with tqdm(total=len(kept), unit="row", desc="figures", disable=None) as bar:
        for start in range(0, len(kept), FIGURE_BATCH):
            batch = kept[start : start + FIGURE_BATCH]
            found = detector.score_batch(batch, passage_windows=True)
            scored += [(e, d.score) for e, d in zip(batch, found, strict=True) if d.score is not None]
            bar.update(len(batch))
    examples, scores = [e for e, _ in scored], np.array([s for _, s in scored])
    return figures_by_set(examples, scores, threshold, "kept groups, never looked at", seed)


def _card(made: Artifact) -> dict[str, Any]:
    """What `render_card` asks for."""
    about = made.about
    names = ", ".join(entry["dataset"] for entry in about["training"])
    return {
        "id": made.id,
        "version": made.version,
        "license": "apache-2.0",
        "summary": f"The checking reader of a Groundwire detector for {made.model}, trained on {names}: "
        f"{about['recipe']}. It reads an answer once more, with an adapter on the answer's tokens alone: its verdict "
        "is **not** that of the model's own pass.",
        "model": {"id": made.model, "hookpoint": made.hookpoint},
        "dictionary": {
            "source": f"trained on {about['dictionary'].get('training_tokens', 'an unstated number of')} tokens, "
            "without the adapter",
            "latents": about["dictionary"]["n_latents"],
            "chosen": sum(term.kind == "latent" for term in made.terms),
            "activation": "pre-activations, per token",
        },
        "training": about["training"],
        "figures": about["figures"],
        "calibration": about["calibration"],
        "thresholds": made.thresholds,
        "limits": LIMITS,
    }


def _training(examples: Sequence[LabelledExample], licences: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "dataset": name,
            "rows": len(own),
            "rows_trained_on": len(in_part(own, "training")),
            "unfaithful": sum(e.label for e in own),
            "groups": len({e.group for e in own}),
            "license": licences.get(name, "not stated"),
        }
        for name, own in by_set(examples).items()
    ]
