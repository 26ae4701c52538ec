"""Binding terms: whether the numbers and names of a sentence stand where the passages put them. Texts alone.

    index = Binding(EvidenceIndex(passages), prompt)  # once for all answers
    index.measure(response, [(0, 41), (42, 80)])  # of each sentence: {"misplaced_numbers": Misplaced(...), ...}

A number that was swapped for another of the same passages is nowhere absent; it stands beside other words. So each
number or name of a sentence is a slot: the words around it are looked up around every number (name) of the nearest
passage sentences. Where one that the answer's sentence does not hold has more of them around it than the slot's own
value has anywhere, the difference, as a share of all of them and less `MARGIN`, is how far the slot is misplaced.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import float64, tensor

from groundwire.evidence import STOP_WORDS, EvidenceIndex, sentences_asking
from groundwire.grounding import GroundingHead
from groundwire.scoring import Sentencewise
from groundwire.sentences import spelt
from groundwire.types import Token

BINDING_TERMS = {
    "misplaced_numbers": "a number that the passages put beside other words",
    "misplaced_names": "a name that the passages put beside other words",
}
SENTENCES = 12  # of the passages, the nearest, in which slots are looked for
SLOTS = 12  # of a sentence of the answer, the first
# How fast a word counts less with its distance to the slot, in words: 1 / (1 + DISTANCE * words). Who acts often stands
# at the other end of a sentence, so names take it as a whole.
DISTANCE = {"number": 0.2, "year": 0.2, "name": 0.0}
MARGIN = 0.1  # of a gap, that means nothing: words lie a little nearer to one value or another in any text
BESIDE = 0.15  # weight of a word that only stands in the sentence before or after

Kind = Literal["number", "year", "name"]


@dataclass(frozen=True)
class Misplaced:
    """A number or name at code points `[start, end)` of a response. gap: how much better `instead` fits, in (0, 1).

    instead: the passages' value that has more of the words around it. passage, at: which passage holds it, by number,
    and from which code point.
    """

    start: int
    end: int
    gap: float
    instead: str
    passage: int
    at: int


@dataclass(frozen=True)
class BindingHead(GroundingHead):
    """The binding terms of a detector, by sentence: `names` out of `BINDING_TERMS` and one shape for each."""

    known = BINDING_TERMS

    def scaled(self, factor: float) -> BindingHead:
        """The same terms with contributions times `factor`."""
        return BindingHead(self.names, self.shapes.scaled(factor))

    def read(self, index: Binding, response: str, tokens: Sequence[Token], ends: Sequence[int]) -> Sentencewise:
        """What each sentence of a response adds, and the token at which its slot begins.

        tokens: those of `response`. ends: the last of each sentence, as `sentence_ends` gives them.
        """
        found = index.measure(response, bounds(tokens, ends))
        gaps = [[each[name].gap if name in each else 0.0 for name in self.names] for each in found]
        until = [token.end for token in tokens]
        rows = [
            [bisect_right(until, m.start) if (m := each.get(name)) else -1 for name in self.names] for each in found
        ]
        return Sentencewise(self.shapes(tensor(gaps, dtype=float64)), tensor(rows))


def bounds(tokens: Sequence[Token], ends: Sequence[int]) -> list[tuple[int, int]]:
    """Code points `[start, end)` of sentences whose last tokens are `ends`."""
    firsts = [0, *(end + 1 for end in ends)]
    return [(tokens[first].start, tokens[last].end) for first, last in zip(firsts, ends, strict=False)]


@dataclass(frozen=True)
class _Slot:
    kind: Kind
    place: int  # in words of the sentence
    word: str  # reduced
    start: int
    end: int


class _Line:
    """The words of a sentence, and its slots."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.places: dict[str, list[int]] = {}
        self.slots: list[_Slot] = []
        for place, (first, last, word) in enumerate(spelt(text, start, end)):
            if word in STOP_WORDS:
                continue
            self.places.setdefault(word, []).append(place)
            if kind := _kind(text[first:last], word):
                self.slots.append(_Slot(kind, place, word, first, last))

    def whole(self, slot: _Slot, text: str) -> tuple[int, int]:
        """Code points of the name that a slot is a word of: "Ines Falk" of "Falk"; a number's own."""
        start, end = slot.start, slot.end
        if slot.kind == "name":
            names = [each for each in self.slots if each.kind == "name"]
            for each in reversed(names):
                if each.end < start and text[each.end : start] == " ":
                    start = each.start
            for each in names:
                if each.start > end and text[end : each.start] == " ":
                    end = each.end
        return start, end


class Binding:
    """The slots of passages, to be compared with those of answers. Keeps what it has looked up; linear in an answer."""

    def __init__(self, evidence: EvidenceIndex, prompt: str) -> None:
        """evidence: of the passages. prompt: of which what asks is never misplaced, since an answer repeats it."""
        self._evidence, self._prompt = evidence, prompt
        self._lines: dict[int, _Line] = {}

    def measure(self, response: str, sentences: Sequence[tuple[int, int]]) -> list[dict[str, Misplaced]]:
        """Of each sentence, given by its code points `[start, end)`: its most misplaced slot by term, where it has
        one."""
        return [self._sentence(response, start, end) for start, end in sentences]

    def _sentence(self, response: str, start: int, end: int) -> dict[str, Misplaced]:
        line = _Line(response, start, end)
        near = self._evidence.nearest(response, start, end, SENTENCES) if line.slots else []
        found: dict[str, Misplaced] = {}
        for slot in line.slots[:SLOTS]:
            if slot.word in self._asked:
                continue
            term = "misplaced_names" if slot.kind == "name" else "misplaced_numbers"
            worst = self._misplaced(slot, line, near)
            if worst is not None and (term not in found or worst.gap > found[term].gap):
                found[term] = worst
        return found

    def _misplaced(self, slot: _Slot, line: _Line, near: Sequence[int]) -> Misplaced | None:
        around = {
            word: max(1 / (1 + DISTANCE[slot.kind] * abs(place - slot.place)) for place in places)
            * self._evidence.idf(word)
            for word, places in line.places.items()
            if word != slot.word
        }
        own, other = -1.0, 0.0
        best: tuple[int, _Slot] | None = None
        whole = sum(around.values())
        for number in near:
            theirs = self._line(number)
            for each in theirs.slots:
                if each.kind != slot.kind or (each.word != slot.word and each.word in line.places):
                    continue
                support = self._support(around, number, each)
                if each.word == slot.word:
                    own = max(own, support)
                elif support > other:
                    other, best = support, (number, each)
        gap = (other - own) / whole - MARGIN if whole else 0.0
        if own < 0 or best is None or gap <= 0:
            return None
        number, each = best
        piece, text = self._evidence.pieces[number], self._evidence.text(number)
        start, end = self._line(number).whole(each, text)
        return Misplaced(slot.start, slot.end, gap, text[start:end], piece.passage, piece.start + start)

    def _support(self, around: dict[str, float], number: int, slot: _Slot) -> float:
        """How much of the words around an answer's slot stands around one of passage sentence `number`."""
        here, fall, total = self._line(number).places, DISTANCE[slot.kind], 0.0
        beside = [self._line(n).places for n in (number - 1, number + 1) if self._same_passage(number, n)]
        for word, weight in around.items():
            if places := here.get(word):
                distance = min(abs(place - slot.place) for place in places)
                if distance:
                    total += weight / (1 + fall * distance)
            elif any(word in others for others in beside):
                total += BESIDE * weight
        return total

    def _same_passage(self, one: int, other: int) -> bool:
        pieces = self._evidence.pieces
        return 0 <= other < len(pieces) and pieces[one].passage == pieces[other].passage and not pieces[other].asks

    def _line(self, number: int) -> _Line:
        if number not in self._lines:
            text = self._evidence.text(number)
            self._lines[number] = _Line(text, 0, len(text))
        return self._lines[number]

    @cached_property
    def _asked(self) -> frozenset[str]:
        return frozenset(word for found, asks in sentences_asking(self._prompt) if asks for word in found.words)


def _kind(spelling: str, word: str) -> Kind | None:
    if word[0].isdecimal():
        return "year" if len(word) == 4 and word.isdecimal() and "1000" <= word < "2100" else "number"
    return "name" if spelling[0].isupper() and len(spelling) > 1 else None
