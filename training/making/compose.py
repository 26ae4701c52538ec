"""Answers from templates: a document drawn twice, answers right under one drawing and wrong under the other.

Every mistake is coherent and its place known: a fact said wrongly as its template says it, two values exchanged, or a
value of another drawing. Faithful and unfaithful answers of a pair share all but the mistake, so that nothing but the
passages tells them apart.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from groundwire.prompts import grounded_messages
from groundwire.training.making.template import Fact, Template, Value, fill, slots_of
from groundwire.types import Passage

PAIRS = 4  # of answers, for each drawing
DISTRACTORS = 0.35  # chance of passages from other documents among a prompt's own
AGAIN = 0.5  # chance that the facts of an answer are said rightly once more, in other words
CROSSED = 0.5  # chance that the other drawing's answers are asked of this one too
PREFACES = (
    "According to the passages, ",
    "Based on the information given, ",
    "Sure! ",
    "Sure, here is what I found: ",
    "Here is what the passages say: ",
    "Good question. ",
    "In short: ",
    "Yes, I can help with that. ",
    "From the text: ",
    "The passages state that ",
    "Of course. ",
    "Thanks for asking! ",
    "Here's a quick summary: ",
    "To answer your question: ",
    "As described in the documents, ",
    "Certainly! ",
)
LOWERS = ("that ", "passages, ", "given, ", "documents, ")  # prefaces after which a sentence goes on in lower case
CLOSINGS = (
    " Let me know if you need anything else.",
    " I hope this helps!",
    " The passages give no further details.",
    " That is all the text says about it.",
    " Feel free to ask if anything is unclear.",
)
SUMMARY = (
    "Summarise the following text.",
    "State what the passages say.",
    "What do the documents say?",
    "Give me the key facts.",
    "Write a short summary of the passages below.",
)
_WORDS = re.compile(r"\w+|[^\w\s]|\s+")


@dataclass(frozen=True)
class Piece:
    """One sentence of an answer. spans: what is wrong in it; kind: of the fact's wording, or of the mistake."""

    text: str
    kind: str
    spans: tuple[tuple[int, int], ...] = ()


def rows(
    templates: Sequence[Template], rng: random.Random, drawings: int, *, dataset: str = "templates"
) -> Iterator[dict[str, Any]]:
    """Labelled rows, `drawings` pairs of drawn documents for each template.

    A row has the fields of labelled data and `kind`, and an unfaithful one made from a faithful one its id as `pair`.
    The group is the template.
    """
    for template in templates:
        others = [t for t in templates if t.id != template.id]
        for number in range(drawings):
            yield from _drawing(template, others, rng, f"{dataset}-{template.id}-{number}", dataset)


def _drawing(
    template: Template, others: Sequence[Template], rng: random.Random, name: str, dataset: str
) -> Iterator[dict[str, Any]]:
    one = template.draw(rng)
    two = redrawn(template, one, rng, rng.choice((1, 1, 2, 3, len(template.slots))))
    for side, (own, other) in (("a", (one, two)), ("b", (two, one))):
        passages = [fill(text, own) for text in template.passages]
        if rng.random() < DISTRACTORS and others:
            passages += _distractors(template, others, rng)
        if rng.random() < 0.3:
            rng.shuffle(passages)
        known = dict[str, str]()
        question, facts = rng.choice(template.questions)  # one: reading a prompt costs more than an answer
        prompt = prompt_of(fill(question, own), passages, rng.random())
        for number in range(PAIRS):
            plan = _Plan.of(rng, [template.facts[i] for i in facts], template.facts)
            good = [Piece(fill(text, own), kind) for kind, text in plan.said]
            kinds = "+".join(sorted({p.kind for p in good}))
            answers: list[tuple[str, int, str, tuple[tuple[int, int], ...]]] = [(plan.text(good), 0, kinds, ())]
            at = rng.randrange(len(good))
            wrong = mistake(template, plan.facts[at], plan.said[at], own, rng)
            if wrong is not None:
                said = [wrong if i == at else piece for i, piece in enumerate(good)]
                answers.append((plan.text(said), 1, wrong.kind, plan.spans(said)))
            if rng.random() < AGAIN:
                again = [Piece(fill(text, own), kind) for kind, text in (rng.choice(f.right) for f in plan.facts)]
                answers.append((plan.text(again), 0, "+".join(sorted({p.kind for p in again})), ()))
            if rng.random() < CROSSED:
                crossed = [_crossed(template, text, kind, own, other) for kind, text in plan.said]
                if any(piece.spans for piece in crossed):
                    answers.append((plan.text(crossed), 1, "crossed", plan.spans(crossed)))
            first = f"{name}{side}{number}"
            for i, (text, label, kind, spans) in enumerate(answers):
                if known.setdefault(prompt + text, first) != first:
                    continue
                yield {
                    "id": f"{first}-{i}",
                    "dataset": dataset,
                    "group": f"{dataset}-{template.id}",
                    "prompt": prompt,
                    "response": text,
                    "label": label,
                    "spans": [{"start": a, "end": b} for a, b in spans],
                    "kind": kind,
                    "pair": f"{first}-0" if label else None,
                    "generator": template.domain,
                }


@dataclass(frozen=True)
class _Plan:
    """How an answer is put together; its pieces are exchanged, the rest stays."""

    facts: tuple[Fact, ...]
    said: tuple[tuple[str, str], ...]  # kind and text of each
    preface: str
    closing: str
    listed: bool

    @classmethod
    def of(cls, rng: random.Random, asked: Sequence[Fact], every: Sequence[Fact]) -> _Plan:
        facts = list(asked)
        if len(facts) > 1 and rng.random() < 0.5:
            rng.shuffle(facts)
        facts = facts[: rng.choice((1, 2, 2, 3, 3, 4, 5))]
        if rng.random() < (0.2 if len(asked) > 1 else 0.7):
            more = [f for f in every if f not in facts]
            facts += rng.sample(more, min(rng.choice((1, 1, 2)), len(more)))
        said = tuple(rng.choice(fact.right) for fact in facts)
        listed = len(facts) > 1 and rng.random() < 0.18
        preface = rng.choice(PREFACES) if rng.random() < 0.3 else ""
        if listed and preface.endswith(LOWERS):
            preface = "Here is what the passages say: "
        closing = rng.choice(CLOSINGS) if rng.random() < 0.08 else ""
        return cls(tuple(facts), said, preface, closing, listed)

    def _parts(self, pieces: Sequence[Piece]) -> Iterator[tuple[str, Piece | None]]:
        yield (self.preface.rstrip() + "\n" if self.listed and self.preface else self.preface), None
        for i, piece in enumerate(pieces):
            if self.listed:
                yield ("- " if not i else "\n- "), None
            elif i:
                yield " ", None
            lower = not i and self.preface.endswith(LOWERS) and piece.text.startswith(("The ", "A ", "An ", "All "))
            yield (piece.text[0].lower() + piece.text[1:] if lower else piece.text), piece
        yield ("\n" + self.closing.strip() if self.listed and self.closing else self.closing), None

    def text(self, pieces: Sequence[Piece]) -> str:
        return "".join(text for text, _ in self._parts(pieces))

    def spans(self, pieces: Sequence[Piece]) -> tuple[tuple[int, int], ...]:
        found, at = [], 0
        for text, piece in self._parts(pieces):
            found += [(at + a, at + b) for a, b in piece.spans] if piece else []
            at += len(text)
        return tuple(found)


def mistake(
    template: Template, fact: Fact, said: tuple[str, str], values: Mapping[str, Value], rng: random.Random
) -> Piece | None:
    """The fact said wrongly: as its template says it, with two values exchanged, or with a value drawn anew.

    None where the template knows no way.
    """
    text = said[1]
    right = fill(text, values)
    named = slots_of(text)
    ways: list[str] = (["said"] * 4 if fact.wrong else []) + ["redrawn"] * (2 if named else 0)
    ways += ["exchanged"] * 3 if any(set(pair) & set(named) for pair in fact.swap) else []
    while ways:
        way = rng.choice(ways)
        ways = [w for w in ways if w != way]
        if way == "said":
            made, wrong = rng.choice(fact.wrong)
            found = fill(wrong, values)
            if found != right and all(found != fill(other, values) for _, other in fact.right):
                return Piece(found, made, changed(right, found))
        elif way == "exchanged":
            a, b = rng.choice([pair for pair in fact.swap if set(pair) & set(named)])
            found = fill(text, {**values, a: values[b], b: values[a]})
            if found != right:
                made = "roles" if {a, b} <= set(named) else _kind_of(values[a], values[b])
                return Piece(found, made, changed(right, found))
        else:
            other = redrawn(template, values, rng, 1, among=named)
            found = fill(text, other)
            if found != right:
                return Piece(found, "redrawn", changed(right, found))
    return None


def redrawn(
    template: Template, values: Mapping[str, Value], rng: random.Random, count: int, among: Sequence[str] | None = None
) -> dict[str, Value]:
    """`values` with `count` of the drawn slots (of those `among`) drawn anew, and what derives from them."""
    drawn = [names for names in template.drawn if among is None or set(names) & set(among)]
    chosen = rng.sample(drawn, min(count, len(drawn)))
    kept = {n: values[n] for names in template.drawn if names not in chosen for n in names}
    return template.draw(rng, kept)


def changed(right: str, wrong: str) -> tuple[tuple[int, int], ...]:
    """Code points of `wrong` that differ from `right`, in whole words; all of it where hardly anything is left."""
    a, b = _WORDS.findall(right), _WORDS.findall(wrong)
    starts = [0]
    for word in b:
        starts.append(starts[-1] + len(word))
    match = SequenceMatcher(None, a, b, autojunk=False)
    if match.ratio() < 0.5:
        return ((0, len(wrong)),)
    found: list[tuple[int, int]] = []
    for tag, _, _, low, high in match.get_opcodes():
        if tag == "equal":
            continue
        if low == high:  # something was left out: what stands beside the gap is wrong
            while low > 0 and (low == high or b[low].isspace()):
                low -= 1
            while high < len(b) and b[high - 1].isspace():
                high += 1
        start, end = starts[low], starts[high]
        start += len(wrong[start:end]) - len(wrong[start:end].lstrip())
        end -= len(wrong[start:end]) - len(wrong[start:end].rstrip())
        if start >= end:
            continue
        if found and start - found[-1][1] <= 1:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return tuple(found) or ((0, len(wrong)),)


def _crossed(template: Template, text: str, kind: str, own: Mapping[str, Value], other: Mapping[str, Value]) -> Piece:
    """What another drawing would say of this one; the right thing where two turns of phrase could cancel out."""
    right, said, named = fill(text, own), fill(text, other), set(slots_of(text))
    turned = [
        names
        for names in template.drawn
        if len(names) > 1 and named & set(names) and any(own[n] != other[n] for n in names)
    ]
    if said == right or len(turned) > 1:
        return Piece(right, kind)
    return Piece(said, "crossed", changed(right, said))


def _kind_of(a: Value, b: Value) -> str:
    return "name" if isinstance(a, str) and isinstance(b, str) and not any(c.isdigit() for c in a + b) else "number"


def _distractors(template: Template, others: Sequence[Template], rng: random.Random) -> list[str]:
    near = [t for t in others if t.domain == template.domain] or list(others)
    other = rng.choice(near if rng.random() < 0.6 else list(others))
    drawn = other.draw(rng)
    texts = [fill(text, drawn) for text in other.passages]
    return rng.sample(texts, min(len(texts), rng.choice((1, 1, 2))))


def prompt_of(question: str, passages: Sequence[str], form: float) -> str:
    """What the generator was asked, in one of several forms; Groundwire's own rendering is the commonest.

    form: from 0 to 1, which one.
    """
    if form < 0.4:
        return grounded_messages(question, [Passage(text) for text in passages])[0]["content"]
    if form < 0.55:
        listed = "\n\n".join(f"Passage {i}: {text}" for i, text in enumerate(passages, 1))
        return f"Answer the question using only the passages below.\n\n{listed}\n\nQuestion: {question}"
    if form < 0.65:
        return "Context:\n" + "\n".join(passages) + f"\n\nQuestion: {question}\nAnswer:"
    if form < 0.75:
        listed = "\n".join(f"[{i}] {text}" for i, text in enumerate(passages, 1))
        return f"{question}\n\nUse only these sources:\n{listed}"
    if form < 0.85:
        return "Passage:\n" + "\n\n".join(passages) + "\n\nState what the passage says."
    joined = "\n\n".join(passages)
    instruction = SUMMARY[int(form * 10_000) % len(SUMMARY)]
    return f"{instruction}\n\n{joined}\n\nSummary:" if form < 0.93 else f"{joined}\n\n{question}"
