"""Binding terms: whether the quantities and names of a sentence stand where the passages put them. Texts alone.

    index = Binding(EvidenceIndex(passages), prompt)  # once for all answers
    index.measure(response, [(0, 41), (42, 80)])  # of each sentence: {"misplaced_quantities": Fault(...), ...}

A number that was swapped for another of the same passages is nowhere absent; it stands beside other words. So each
quantity or name of a sentence is a slot: the words around it are looked up around every quantity (of its dimension) and
every name of the nearest passage sentences. Where another value has more of them around it than the slot's own has
anywhere, the difference, as a share of all of them and less `MARGIN`, is how far the slot is misplaced. A quantity that
is not there in any unit, and does not follow from those that are, is absent.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice, pairwise

from torch import float64, tensor

from groundwire.evidence import CITATION, STOP_WORDS, EvidenceIndex, sentences_asking
from groundwire.focus import MOST_SENTENCES
from groundwire.grounding import GroundingHead
from groundwire.quantities import Quantity, follows, quantities
from groundwire.scoring import Sentencewise
from groundwire.sentences import spelt
from groundwire.spans import Mark
from groundwire.types import Token

BINDING_TERMS = {
    "misplaced_quantities": "a quantity that the passages put beside other words",
    "absent_quantities": "a quantity that the passages neither have in any unit nor lead to",
    "misplaced_names": "a name that the passages put beside other words",
    "reversed_names": "two names in the other order than in the passages",
}
SENTENCES = 8  # of the passages, the nearest, in which slots are looked for
SLOTS = 12  # of a sentence, the first
PREPOSITIONS = frozenset(
    ("in", "at", "on", "for", "from", "of", "to", "with", "under", "near", "after", "befor", "over")
)
MARGIN = 0.1  # of a gap, that means nothing: words lie a little nearer to one value or another in any text
BESIDE = 0.15  # weight of a word that only stands in the sentence before or after
# How fast a word counts less with its distance to a quantity, in words: 1 / (1 + NEAR * words). Who acts often stands
# at the other end of a sentence, so names take it as a whole.
NEAR = 0.2
ALONE = 0.2  # size of an absent quantity that no other of the passages could stand for
FEW = 12  # a count up to this may be the answer's own: "the passages name three"


@dataclass(frozen=True)
class Fault:
    """What is wrong with the slot at code points `[start, end)` of a response. size: how much, in (0, 1].

    instead: the passages' value that fits better, "" where none does. passage, at: which passage holds it, by number,
    and from which code point; 0 where none does.
    """

    start: int
    end: int
    size: float
    instead: str = ""
    passage: int = 0
    at: int = 0


@dataclass(frozen=True)
class BindingHead(GroundingHead):
    """The binding terms of a detector, by sentence: `names` out of `BINDING_TERMS` and one shape for each."""

    known = BINDING_TERMS

    def scaled(self, factor: float) -> BindingHead:
        """The same terms with contributions times `factor`."""
        return BindingHead(self.names, self.shapes.scaled(factor))

    def read(self, found: Sequence[Mapping[str, Fault]], tokens: Sequence[Token]) -> Sentencewise:
        """What each sentence of a response adds, and the token at which its slot begins.

        found: as `Binding.measure` gives it. tokens: those of the response.
        """
        sizes = [[each[name].size if name in each else 0.0 for name in self.names] for each in found]
        until = [token.end for token in tokens]
        rows = [
            [bisect_right(until, slot.start) if (slot := each.get(name)) else -1 for name in self.names]
            for each in found
        ]
        return Sentencewise(self.shapes(tensor(sizes, dtype=float64)), tensor(rows))

    def marks(self, found: Sequence[Mapping[str, Fault]]) -> list[Mark]:
        """The faults with what each adds."""
        named = [(name, fault) for each in found for name, fault in each.items() if name in self.names]
        sizes = [[fault.size if own == name else 0.0 for own in self.names] for name, fault in named]
        added = self.shapes(tensor(sizes, dtype=float64)).sum(1).tolist() if named else []
        return [Mark(fault.start, fault.end, value) for (_, fault), value in zip(named, added, strict=True)]


def bounds(tokens: Sequence[Token], ends: Sequence[int]) -> list[tuple[int, int]]:
    """Code points `[start, end)` of sentences whose last tokens are `ends`."""
    firsts = [0, *(end + 1 for end in ends)]
    return [(tokens[first].start, tokens[last].end) for first, last in zip(firsts, ends, strict=False)]


@dataclass(frozen=True)
class _Slot:
    """place: number of its first word in the sentence. words: its own, reduced. quantity: None for a name. aside:
    whether a preposition stands before it."""

    place: int
    words: tuple[str, ...]
    start: int
    end: int
    quantity: Quantity | None
    aside: bool = False

    @property
    def weighty(self) -> bool:
        """Whether it is a quantity that passages must give."""
        quantity = self.quantity
        return quantity is not None and (quantity.dimension != "number" or quantity.value > FEW)

    @property
    def kind(self) -> str:
        """What could stand in its place is of the same."""
        return "name" if self.quantity is None else self.quantity.dimension

    def same(self, other: _Slot) -> bool:
        """Whether both say the same."""
        if self.quantity is None or other.quantity is None:
            return self.quantity is other.quantity and self.words == other.words
        return self.quantity.equals(other.quantity)


class _Line:
    """A sentence: places of its words, without those of quantities, and its slots in order."""

    def __init__(self, text: str, start: int, end: int, names: Container[str], *, articles: bool = False) -> None:
        """names: words of which the first of a sentence, which has a capital anyway, is a name. articles: whether "a
        week" is a quantity."""
        words = list(spelt(text, start, end))
        self._text = text
        self.places: dict[str, list[int]] = {}
        self.slots: list[_Slot] = []
        self.passive = any(word == "by" for _, _, word in words)
        taken = set[int]()
        for quantity in quantities(text, start, end, articles=articles):
            # Quantities and words are ascending and apart.
            first = bisect_right(words, quantity.start, key=lambda word: word[1])
            last = bisect_left(words, quantity.end, key=lambda word: word[0])
            if first < last:
                inside = tuple(word for _, _, word in words[first:last])
                self.slots.append(_Slot(first, inside, quantity.start, quantity.end, quantity))
                taken.update(range(first, last))
        for place, (first, last, word) in enumerate(words):
            if place in taken or word in STOP_WORDS:
                continue
            self.places.setdefault(word, []).append(place)
            if text[first].isupper() and last - first > 1 and (place > 0 or word in names):
                before = place - 1
                while before >= 0 and text[words[before][0]].isupper():  # the name's other words
                    before -= 1
                aside = before >= 0 and words[before][2] in PREPOSITIONS
                self.slots.append(_Slot(place, (word,), first, last, None, aside))
        self.slots.sort(key=lambda slot: slot.place)

    def whole(self, slot: _Slot) -> tuple[int, int]:
        """Code points of the name that a slot is a word of: "Ines Falk" of "Falk"; a quantity's own."""
        start, end = slot.start, slot.end
        if slot.quantity is None:
            names = [each for each in self.slots if each.quantity is None]
            for each in reversed(names):
                if each.end < start and self._text[each.end : start] == " ":
                    start = each.start
            for each in names:
                if each.start > end and self._text[end : each.start] == " ":
                    end = each.end
        return start, end


class Binding:
    """The slots of passages, to be compared with those of answers. Keeps what it has looked up; each sentence of an
    answer costs a search of the passages."""

    def __init__(self, evidence: EvidenceIndex, prompt: str) -> None:
        """evidence: of the passages. prompt: of which what asks is never at fault, since an answer repeats it."""
        self._evidence, self._prompt = evidence, prompt
        self._lines: dict[int, _Line] = {}

    def measure(self, response: str, sentences: Sequence[tuple[int, int]]) -> list[dict[str, Fault]]:
        """Of each sentence, given by its code points `[start, end)`: its worst fault of each term that it has one
        of. Sentences after the first `MOST_SENTENCES` have none."""
        cited = [found.span() for found in CITATION.finditer(response)]
        first, rest = sentences[:MOST_SENTENCES], sentences[MOST_SENTENCES:]
        return [*(self._sentence(response, start, end, cited) for start, end in first), *({} for _ in rest)]

    def _sentence(self, response: str, start: int, end: int, cited: Sequence[tuple[int, int]]) -> dict[str, Fault]:
        line = _Line(response, start, end, self._names)
        slots = [s for s in line.slots if not self._given(s, response, start, cited)]
        near = self._evidence.nearest(response, start, end, SENTENCES) if slots else []
        found: dict[str, Fault] = {}
        for term, fault in (
            *(self._fault(slot, line, near) for slot in slots[:SLOTS]),
            self._reversed(slots, line, near),
        ):
            if fault is not None and (term not in found or fault.size > found[term].size):
                found[term] = fault
        return found

    def _given(self, slot: _Slot, response: str, start: int, cited: Sequence[tuple[int, int]]) -> bool:
        """Whether a slot needs no support: asked about, the number of a passage or of a line of a list."""
        if self._asked.issuperset(slot.words) or any(a <= slot.start < b for a, b in cited):
            return True
        if slot.quantity is None or slot.quantity.dimension != "number":
            return False
        return response[slot.end : slot.end + 1] in (".", ")") and not response[start : slot.start].strip(" \t\r\n-*(#")

    def _fault(self, slot: _Slot, line: _Line, near: Sequence[int]) -> tuple[str, Fault | None]:
        fall, around = NEAR if slot.quantity else 0.0, dict[str, float]()
        for word, places in line.places.items():
            if word not in slot.words:
                distance = min(abs(place - slot.place) for place in places)
                around[word] = self._evidence.idf(word) / (1 + fall * distance)
        others = [each for each in line.slots if each is not slot]
        theirs = [(number, each) for number in near for each in self._line(number).slots]
        same = [(number, each) for number, each in theirs if each.same(slot)][: 2 * SENTENCES]
        own = max((self._support(around, number, each, fall) for number, each in same), default=-1.0)
        kinds = {slot.kind, *(each.kind for _, each in same)}  # "30" may mean "30 days", so "40 days" could replace it
        other, best = 0.0, None
        for number, each in self._first(theirs, kinds):
            # What the sentence says beside it is no other value.
            if each.same(slot) or any(each.same(said) for said in others):
                continue
            support = self._support(around, number, each, fall)
            if best is None or support > other:
                other, best = support, (number, each)
        whole = sum(around.values())
        if own < 0:
            if slot.quantity is None or not slot.weighty or follows(slot.quantity, self._quantities(near)):
                return "absent_quantities", None
            size = ALONE + (1 - ALONE) * other / whole if whole else ALONE
            return "absent_quantities", self._made(line, slot, size, best)
        gap = (other - own) / whole - MARGIN if whole else 0.0
        term = "misplaced_quantities" if slot.quantity else "misplaced_names"
        return term, self._made(line, slot, gap, best) if gap > 0 else None

    def _first(self, theirs: Sequence[tuple[int, _Slot]], kinds: Container[str]) -> Iterator[tuple[int, _Slot]]:
        """Of each passage sentence the first `SLOTS` slots of these kinds."""
        for _, own in groupby(theirs, key=lambda pair: pair[0]):
            yield from islice((pair for pair in own if pair[1].kind in kinds), SLOTS)

    def _reversed(self, slots: Sequence[_Slot], line: _Line, near: Sequence[int]) -> tuple[str, Fault | None]:
        """Two names that the nearest passage sentence has in the other order, both active or both passive. A name
        behind a preposition may stand anywhere: "In Rome, Anna met Bob"."""
        names = list(dict.fromkeys(slot.words[0] for slot in slots if slot.quantity is None and not slot.aside))
        if len(names) < 2 or not near:
            return "reversed_names", None
        theirs = self._line(near[0])
        if line.passive != theirs.passive:
            return "reversed_names", None
        first = {s.words[0]: s for s in reversed(theirs.slots) if s.quantity is None and not s.aside}
        for one, two in pairwise(name for name in names if name in first):
            if first[one].place > first[two].place:
                slot = next(slot for slot in line.slots if slot.words == (two,))
                share = len(line.places.keys() & theirs.places.keys()) / len(line.places)
                return "reversed_names", self._made(line, slot, share, (near[0], first[two]))
        return "reversed_names", None

    def _made(self, line: _Line, slot: _Slot, size: float, best: tuple[int, _Slot] | None) -> Fault:
        if best is None:
            return Fault(*line.whole(slot), size)
        number, instead = best
        piece, (start, end) = self._evidence.pieces[number], self._line(number).whole(instead)
        text = self._evidence.text(number)[start:end]
        return Fault(*line.whole(slot), size, text, piece.passage, piece.start + start)

    def _support(self, around: dict[str, float], number: int, slot: _Slot, fall: float) -> float:
        """How much of the words around an answer's slot stands around one of passage sentence `number`."""
        here, total = self._line(number).places, 0.0
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

    def _quantities(self, numbers: Iterable[int]) -> list[Quantity]:
        return [slot.quantity for n in numbers for slot in self._line(n).slots if slot.quantity is not None]

    def _line(self, number: int) -> _Line:
        if number not in self._lines:
            text = self._evidence.text(number)
            self._lines[number] = _Line(text, 0, len(text), self._names, articles=True)
        return self._lines[number]

    @cached_property
    def _names(self) -> frozenset[str]:
        """Words that have a capital within a sentence."""
        text = self._prompt
        found = ((first, word) for first, _, word in spelt(text, 0, len(text)) if first > 1 and text[first].isupper())
        return frozenset(
            w for at, w in found if text[at - 1] == " " and (text[at - 2].isalnum() or text[at - 2] in ",;")
        )

    @cached_property
    def _asked(self) -> frozenset[str]:
        return frozenset(word for found, asks in sentences_asking(self._prompt) if asks for word in found.words)
