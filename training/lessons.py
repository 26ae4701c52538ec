"""Labelled answers as a checking reader learns from them: prompts with their answers, a target for every sentence end
and for every token, and pairs of answers that differ by one mistake.

Answers to one prompt stand together, so that it is read once; prompts of one group stand together, so that a statement
meets the passage that supports it and the one that does not in the same step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int

from groundwire.focus import Focus, FocusIndex
from groundwire.prompts import rendered, tokenize_response
from groundwire.sentences import sentence_ends
from groundwire.training.data import LabelledExample
from groundwire.training.tokens import inside

UNKNOWN = np.nan
ANSWERS = 20  # of a unit, about: what meets in one step of training


@dataclass(frozen=True)
class Taught:
    """An answer and its targets: 1 = unfaithful, 0 = faithful, NaN = not known.

    ids: its tokens. ends: the last token of each sentence. sentences: `[ends]` targets. tokens: `[ids]` targets.
    focus: what of the prompt they attend to; None for all of it.
    """

    ids: tuple[int, ...]
    ends: Int[np.ndarray, " ends"]
    sentences: Float[np.ndarray, " ends"]
    tokens: Float[np.ndarray, " ids"]
    label: int
    focus: Focus | None = None


@dataclass(frozen=True)
class Lesson:
    """A prompt and its answers. pairs: (faithful, unfaithful) answers, by number, that differ by the mistake alone."""

    prompt: tuple[int, ...]
    answers: tuple[Taught, ...]
    pairs: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Tokens of all answers."""
        return sum(len(answer.ids) for answer in self.answers)


def taught(tokenizer: Any, example: LabelledExample, index: FocusIndex | None = None, focus: int = 0) -> Taught:
    """The targets of one labelled answer.

    index, focus: of its prompt, and how many passage sentences each sentence is read with; None for all.

    Without spans, the one sentence of an answer has the answer's label; of several, those of an unfaithful one are not
    known.
    """
    tokens = tokenize_response(tokenizer, example.response)
    ends = np.array(sentence_ends(example.response, tokens), dtype=int)
    unknown = np.full(len(tokens), UNKNOWN)
    look = index.of(example.response, tokens, focus) if index is not None else None
    if example.spans is not None:
        hit = (inside(tokens, example.spans) > 0).astype(float)
        starts = np.r_[0, ends[:-1] + 1][: len(ends)]
        by_sentence = np.array([hit[a : b + 1].max() for a, b in zip(starts, ends, strict=True)])
        return Taught(tuple(t.id for t in tokens), ends, by_sentence, hit, example.label, look)
    known = float(example.label) if example.label == 0 or len(ends) == 1 else UNKNOWN
    by_token = np.zeros(len(tokens)) if example.label == 0 else unknown
    return Taught(tuple(t.id for t in tokens), ends, np.full(len(ends), known), by_token, example.label, look)


def units(
    tokenizer: Any, examples: Sequence[LabelledExample], *, most: int = 0, focus: Sequence[int] = (0,)
) -> Iterator[Callable[[], list[Lesson]]]:
    """Prompts of each group, as many as have about `ANSWERS` answers together, as a function that makes their lessons
    (tokenised when they are wanted).

    most: tokens of a prompt with an answer; longer ones are left out; 0 for no limit.
    focus: how many passage sentences each sentence is read with, 0 for all; of several numbers, each prompt has one.
    """
    groups: dict[str, dict[str, list[LabelledExample]]] = {}
    for example in examples:
        groups.setdefault(example.group, {}).setdefault(example.prompt, []).append(example)
    for by_prompt in groups.values():
        unit: list[list[LabelledExample]] = []
        for number, own in enumerate(by_prompt.values(), 1):
            unit.append(own)
            if sum(map(len, unit)) >= ANSWERS or number == len(by_prompt):
                yield partial(_lessons, tokenizer, unit, most, focus)
                unit = []


def _lessons(
    tokenizer: Any, prompts: Sequence[Sequence[LabelledExample]], most: int, focus: Sequence[int]
) -> list[Lesson]:
    found = []
    for own in prompts:
        whole = rendered(tokenizer, own[0].messages)
        sentences = focus[crc32(own[0].prompt.encode()) % len(focus)]
        prompt, index = whole.ids, FocusIndex(whole) if sentences else None
        made = {e.id: taught(tokenizer, e, index, sentences) for e in own}
        kept = [e for e in own if len(made[e.id].ends) and (not most or len(prompt) + len(made[e.id].ids) <= most)]
        place = {e.id: n for n, e in enumerate(kept)}
        pairs = [(place[e.pair], place[e.id]) for e in kept if e.pair in place]
        if kept:
            found.append(Lesson(prompt, tuple(made[e.id] for e in kept), tuple(pairs)))
    return found


def mixed(
    sources: Mapping[str, tuple[float, Sequence[Callable[[], list[Lesson]]]]], seed: int, *, skip: int = 0
) -> Iterator[list[Lesson]]:
    """Units without end, each source as often as its weight says, its own in an order drawn anew each time round.

    skip: units already seen by a run that goes on.
    """
    rng = random.Random(seed)
    names = [name for name, (weight, own) in sources.items() if own and weight > 0]
    weights = [sources[name][0] for name in names]
    waiting: dict[str, list[int]] = {name: [] for name in names}
    drawn = 0
    while True:
        (name,) = rng.choices(names, weights)
        if not waiting[name]:
            waiting[name] = list(range(len(sources[name][1])))
            rng.shuffle(waiting[name])
        number = waiting[name].pop()
        drawn += 1
        if drawn > skip:
            yield sources[name][1][number]()
