"""`groundwire make-data`: labelled rows from templates and from a user's own passages, balanced, as JSONL."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from groundwire.errors import InputError
from groundwire.grounding import Grounding
from groundwire.sentences import sentences
from groundwire.training.making.compose import prompt_of, rows
from groundwire.training.making.edits import answers
from groundwire.training.making.template import read_templates
from groundwire.training.metrics import auc
from groundwire.training.text import read_documents

TEMPLATES = Path(__file__).parent / "templates"
QUESTIONS = ("What do the passages say?", "Summarise the passages.", "What should I know about this?")
PASSAGE_SENTENCES = (2, 5)  # of a passage cut from a text
PASSAGES = (1, 3)  # of a prompt
PAIRS = 4  # of answers to a prompt
TELLS = ("absent_words", "absent_numbers", "words")  # what words alone may not tell
LEVEL = 0.02  # how far from one half their AUC may be within pairs


@dataclass(frozen=True)
class MakeRun:
    """The options of `groundwire make-data`. rows: to make, about. templates: whether to use those that are shipped."""

    rows: int
    templates: bool
    seed: int


def make(texts: Sequence[Path], output: Path, run: MakeRun) -> dict[str, Any]:
    """Write rows to `output` and return what they are: counts by kind, and the AUC of what words alone tell.

    Raises InputError where there is nothing to make rows from.
    """
    rng = random.Random(run.seed)
    parts: list[Iterator[dict[str, Any]]] = [from_texts(texts, rng)] if texts else []
    if run.templates:
        parts.append(from_templates(rng))
    if not parts:
        raise InputError("neither passages nor templates", expected="a file of texts, or --templates")
    made: list[dict[str, Any]] = []
    with tqdm(total=run.rows, unit="row", desc="rows", disable=None) as bar:
        for part, count in zip(parts, _shares(run.rows, len(parts)), strict=True):
            own: list[dict[str, Any]] = []
            for row in part:
                own.append(row)
                bar.update()
                if len(own) >= count:
                    break
            made += own
    kept = balanced(made, rng)
    partial = output.with_name(f"{output.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    partial.replace(output)
    return {"made": len(made), "kept": len(kept), "unfaithful": sum(r["label"] for r in kept), **told(kept)} | {
        "kinds": dict(Counter(r["kind"] for r in kept if r["label"]).most_common())
    }


def from_templates(rng: random.Random, folder: Path = TEMPLATES) -> Iterator[dict[str, Any]]:
    """Rows of the templates without end: every template once, then every one again with other values."""
    templates = list(read_templates(folder))
    for number in range(1 << 30):
        for row in rows(templates, rng, 1):
            # Drawings of one template stand in one group.
            yield {**row, "id": f"{row['id']}~{number}", "pair": row["pair"] and f"{row['pair']}~{number}"}


def from_texts(paths: Sequence[Path], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of a user's texts (JSONL with `text`): passages cut from each, answers of their sentences, and edits."""
    names = {path: path.name.split(".")[0] for path in paths}
    if len(set(names.values())) < len(paths):
        names = {path: f"{i}-{name}" for i, (path, name) in enumerate(names.items())}
    for path in paths:
        for number, document in enumerate(read_documents(path)):
            for place, passages in enumerate(_cut(document.text, rng)):
                name = f"edits-{names[path]}-{number}"
                question = rng.choice(QUESTIONS)
                prompt = prompt_of(question, passages, rng.random())
                for i, (good, bad) in enumerate(answers(passages, rng, PAIRS)):
                    first = f"{name}-{place}-{i}"
                    for made, end in ((good, "a"), (bad, "b")):
                        yield {
                            "id": f"{first}{end}",
                            "dataset": "edits",
                            "group": name,
                            "prompt": prompt,
                            "response": made.text,
                            "label": made.label,
                            "spans": [{"start": a, "end": b} for a, b in made.spans],
                            "kind": made.kind,
                            "pair": f"{first}a" if made.label else None,
                            "generator": "rules",
                        }


def balanced(made: Sequence[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """The rows without those pairs by which words alone would tell the unfaithful answer.

    Within the pairs of a data set as many unfaithful answers have more absent words (absent numbers, words) than their
    faithful ones as have fewer, about: what is too many goes, at random.
    """
    by_id = {row["id"]: row for row in made}
    measures = _measured(made)
    gone: set[str] = set()
    for name in dict.fromkeys(row["dataset"] for row in made):
        pairs = [r["id"] for r in made if r["dataset"] == name and r["label"] and r["pair"] in by_id]
        for tell in TELLS:
            left = [i for i in pairs if i not in gone]
            gaps = {i: measures[i][tell] - measures[by_id[i]["pair"]][tell] for i in left}
            more, fewer = [i for i in left if gaps[i] > 0], [i for i in left if gaps[i] < 0]
            larger, smaller = (more, fewer) if len(more) > len(fewer) else (fewer, more)
            spare = len(larger) - len(smaller) - int(2 * LEVEL * len(left))
            gone.update(rng.sample(larger, max(0, spare)))
    return [row for row in made if row["id"] not in gone]


def told(made: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """AUC of what words alone tell, by data set: near one half is clean."""
    measures, found = _measured(made), {}
    for name in dict.fromkeys(row["dataset"] for row in made):
        own = [row for row in made if row["dataset"] == name]
        labels = np.array([row["label"] for row in own])
        if 0 < labels.sum() < len(labels):
            areas = {t: auc(labels, np.array([measures[r["id"]][t] for r in own])) for t in TELLS}
            found[name] = {tell: round(area, 3) for tell, area in areas.items() if area is not None}
    return {"words_alone": found}


def _measured(made: Iterable[dict[str, Any]]) -> dict[str, dict[str, float]]:
    index: tuple[str, Grounding] | None = None
    found = {}
    for row in made:
        if index is None or index[0] != row["prompt"]:  # answers to one prompt stand together
            index = (row["prompt"], Grounding(row["prompt"]))
        found[row["id"]] = index[1].measure(row["response"])
    return found


def _cut(text: str, rng: random.Random) -> Iterator[list[str]]:
    """Passages of a few neighbouring sentences, a few to a prompt."""
    found = list(sentences(text[:20_000]))
    at, passages = 0, list[str]()
    wanted = rng.randint(*PASSAGES)
    while at < len(found):
        own = found[at : at + rng.randint(*PASSAGE_SENTENCES)]
        at += len(own)
        passages.append(text[own[0].start : own[-1].end])
        if len(passages) == wanted:
            yield passages
            passages, wanted = [], rng.randint(*PASSAGES)
    if passages:
        yield passages


def _shares(rows: int, parts: int) -> list[int]:
    return [rows // parts + (i < rows % parts) for i in range(parts)]
