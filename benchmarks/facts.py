"""Does the shipped detector check facts? As a user gets it, on answers it never learned from.

    python benchmarks/facts.py DATA -o benchmarks/results/facts.json [--sets everyday,fool-me-twice] [--rows 600]

DATA is the folder of labelled data. Of sets that the checking reader learns from, only the groups kept for figures are
scored; summedits, dolly and refchecker are whole but for `--rows`; `everyday` lies beside this script and is written by
hand. Beside it stand what the adapter and the terms of the texts would each tell alone, the model's own reading, absent
words and length. The own reading (the second detector) was trained on some of these sets, so its figures there flatter
it: the table says which.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np

from groundwire.calibration import log_odds, prevalence_shift
from groundwire.detector import Detector
from groundwire.errors import GroundwireError
from groundwire.grounding import Grounding
from groundwire.training.data import LabelledExample, read_labelled
from groundwire.training.metrics import auc, auc_interval, auc_within_generator, balanced_accuracy, ece
from groundwire.training.reader import in_part, thinned
from groundwire.types import Detection

EVERYDAY = Path(__file__).parent / "everyday" / "rows.jsonl"
UNSEEN = ("summedits", "dolly", "refchecker")  # by the checking reader
KEPT = ("fool-me-twice", "fever-symmetric", "cad-nli", "ragtruth-qa", "defacto", "frank")
OWN_SAW = ("ragtruth-qa", "refchecker", "summedits", "frank")
FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
BATCH = 64


@click.command()
@click.argument("data", type=FOLDER)
@click.option("-o", "--output", required=True, type=FILE)
@click.option("--sets", default=",".join(("everyday", *KEPT, *UNSEEN)), show_default=True)
@click.option("--rows", default=600, show_default=True, help="Most rows of a set, whole prompts.")
@click.option("--artifact", type=FOLDER)
@click.option("--work", type=FOLDER, help="Folder for what was scored: an interrupted run goes on.")
def main(data: Path, output: Path, sets: str, rows: int, artifact: Path | None, work: Path | None) -> None:
    """Score the sets and write their figures."""
    import record  # beside this script

    detector = Detector.from_pretrained(artifact)
    own = Detector.from_pretrained(artifact, engine=detector.engine, reading="own")
    judging = (detector.checking or detector).artifact
    table, kinds, spans = [], [], []
    for name in sets.split(","):
        examples = _examples(name, data, rows)
        scored = _scored(detector, examples, work and work / f"{name}.json")
        beside = _scored(own, examples, work and work / f"{name}.own.json")
        table.append(figures(name, examples, scored, beside, judging.prevalence))
        click.echo(json.dumps(table[-1]))
        if name == "everyday":
            kinds = by_kind(EVERYDAY, scored, detector.thresholds["fpr<=0.1"])
        if (found := span_figures(name, examples, scored)) is not None:
            spans.append(found)
    record.write(output, {"tables": {"facts": table, "facts-kinds": kinds, "facts-spans": spans}})


def figures(
    name: str,
    examples: Sequence[LabelledExample],
    scored: Sequence[dict[str, Any]],
    own: Sequence[dict[str, Any]],
    prevalence: float,
) -> dict[str, Any]:
    """One row of the table."""
    checked = [i for i, s in enumerate(scored) if s["score"] is not None]
    labels = np.array([examples[i].label for i in checked])
    scores, groups = np.array([scored[i]["score"] for i in checked]), np.array([examples[i].group for i in checked])
    flagged = np.array([scored[i]["flagged"] for i in checked])
    share = float(labels.mean())
    odds = np.array([log_odds(min(max(s, 1e-9), 1 - 1e-9)) for s in scores]) + prevalence_shift(prevalence, share)
    measured = [Grounding(examples[i].prompt).measure(examples[i].response) for i in checked]
    return {
        "data set": name,
        "rows": len(checked),
        "unfaithful": share,
        "AUC": auc(labels, scores),
        "95 %": list(auc_interval(labels, scores, groups) or ()),
        "within generator": auc_within_generator(labels, scores, np.array([examples[i].generator for i in checked])),
        "pairs": pairs([examples[i] for i in checked], scores),
        "balanced accuracy": balanced_accuracy(labels, flagged),
        "ECE at its share": ece(labels, 1 / (1 + np.exp(-odds))),
        "adapter alone": auc(labels, np.array([scored[i]["adapter"] for i in checked])),
        "texts alone": auc(labels, np.array([scored[i]["texts"] for i in checked])),
        "own reading": auc(
            labels, np.array([own[i]["score"] if own[i]["score"] is not None else 0.5 for i in checked])
        ),
        "own saw it": "yes" if name in OWN_SAW else "",
        "absent words": auc(labels, np.array([m["absent_words"] for m in measured])),
        "length": auc(labels, np.array([m["words"] for m in measured])),
    }


def pairs(examples: Sequence[LabelledExample], scores: np.ndarray) -> float | None:
    """Share of pairs in the right order: those that rows name, else all of a faithful and an unfaithful answer to one
    prompt, every prompt weighing the same."""
    by_id = {e.id: i for i, e in enumerate(examples)}
    named = [(by_id[e.pair], i) for i, e in enumerate(examples) if e.pair in by_id]
    if named:
        return float(np.mean([_order(scores[good], scores[bad]) for good, bad in named]))
    prompts: dict[str, list[int]] = {}
    for i, e in enumerate(examples):
        prompts.setdefault(e.prompt, []).append(i)
    shares = []
    for members in prompts.values():
        found = [
            _order(scores[a], scores[b]) if examples[b].label else _order(scores[b], scores[a])
            for a, b in combinations(members, 2)
            if examples[a].label != examples[b].label
        ]
        if found:
            shares.append(np.mean(found))
    return float(np.mean(shares)) if shares else None


def by_kind(path: Path, scored: Sequence[dict[str, Any]], strict: float) -> list[dict[str, Any]]:
    """How many answers of each kind are flagged."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    kinds = Counter((row["label"], row["kind"]) for row in rows)
    found = []
    for (label, kind), count in sorted(kinds.items()):
        own = [s for row, s in zip(rows, scored, strict=True) if (row["label"], row["kind"]) == (label, kind)]
        checked = [s for s in own if s["score"] is not None]
        found.append(
            {
                "answers": "unfaithful" if label else "faithful",
                "kind": kind,
                "rows": count,
                "checked": len(checked),
                "flagged": sum(s["flagged"] for s in checked),
                "flagged at fpr<=0.1": sum(s["score"] > strict for s in checked),
                "mean score": float(np.mean([s["score"] for s in checked])) if checked else None,
            }
        )
    return found


def span_figures(
    name: str, examples: Sequence[LabelledExample], scored: Sequence[dict[str, Any]]
) -> dict[str, Any] | None:
    """Token AUC, and F1 over characters, where spans are labelled; None elsewhere."""
    own = [(e, s) for e, s in zip(examples, scored, strict=True) if e.spans is not None and s["score"] is not None]
    if not any(e.spans for e, _ in own):
        return None
    hit = drawn = wanted = 0
    truth, scores = [], []
    for e, s in own:
        mine = {c for a, b in s["spans"] for c in range(a, b)}
        theirs = {c for a, b in e.spans or () for c in range(a, b)}
        hit, drawn, wanted = hit + len(mine & theirs), drawn + len(mine), wanted + len(theirs)
        for start, end, score in s["tokens"]:
            truth.append(any(start < b and end > a for a, b in e.spans or ()))
            scores.append(score)
    return {
        "data set": name,
        "answers": len(own),
        "token AUC": auc(np.array(truth, int), np.array(scores)),
        "span F1": 2 * hit / max(1, drawn + wanted),
        "span precision": hit / max(1, drawn),
        "span recall": hit / max(1, wanted),
    }


def _examples(name: str, data: Path, rows: int) -> list[LabelledExample]:
    if name == "everyday":
        return read_labelled(EVERYDAY)
    found = read_labelled(data / f"{name}.jsonl")
    if name not in UNSEEN:
        found = in_part(found, "kept")
    return thinned(found, rows, 0)


def _scored(detector: Detector, examples: Sequence[LabelledExample], cached: Path | None) -> list[dict[str, Any]]:
    """What the figures need of each detection; from `cached` where it holds those of the same rows."""
    if cached is not None and cached.exists():
        found = json.loads(cached.read_text("utf-8"))
        if [f["id"] for f in found] == [e.id for e in examples]:
            return found
    found = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        detections = detector.score_batch(batch, passage_windows=True)
        found += [_kept(e, d, detector.threshold) for e, d in zip(batch, detections, strict=True)]
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_text(json.dumps(found), encoding="utf-8")
    return found


def _kept(example: LabelledExample, detection: Detection, threshold: float) -> dict[str, Any]:
    return {
        "id": example.id,
        "status": detection.status,
        "reason": detection.reason,
        "score": detection.score,
        "flagged": detection.score is not None and detection.score > threshold,
        "adapter": sum(c.contribution for c in detection.contributions if c.term.kind != "grounding"),
        "texts": sum(c.contribution for c in detection.contributions if c.term.kind == "grounding"),
        "spans": [(s.start, s.end) for s in detection.spans],
        "tokens": [(t.start, t.end, round(t.score, 5)) for t in detection.tokens],
    }


def _order(good: float, bad: float) -> float:
    return 1.0 if bad > good else 0.5 if bad == good else 0.0


if __name__ == "__main__":
    try:
        main()
    except GroundwireError as error:
        sys.exit(f"facts: {error}")
