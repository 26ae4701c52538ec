"""Says in one plain sentence what is wrong with a part of an answer. Made of the texts, without a language model.

A reason is what a reader would compare, not why the score is what it is: that is what the contributions say. What the
texts show is named (a quantity, a name, a negation, an opposite, a word that no passage has); where they show nothing,
the nearest passage text is quoted.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from groundwire.binding import Fault
from groundwire.evidence import STOP_WORDS
from groundwire.opposites import NEGATIONS, OPPOSITES
from groundwire.sentences import Sentence, sentences, spelt
from groundwire.source import Source

HIDDEN = ("Cc", "Cf", "Zl", "Zp")  # control and format characters, line separators
QUOTE = 160  # characters of a passage that a reason quotes, at most
NEAR = 0.35  # similarity from which the nearest passage text speaks of the same thing
SAME = 0.6  # similarity from which it says the same, but for a negation
TOUCHED = 8  # sentences of a part that are looked at
MOST = 3  # words that a reason lists
ORDER = ("absent_quantities", "misplaced_quantities", "misplaced_names", "reversed_names")  # the surest first


class Reasons:
    """Reasons for the parts of one answer."""

    def __init__(self, source: Source, response: str) -> None:
        self._source, self._response = source, response
        self._sentences = list(sentences(response))
        self._ends = [sentence.end for sentence in self._sentences]
        self._faults: dict[tuple[int, int], Mapping[str, Fault]] = {}

    def of(self, start: int, end: int) -> str | None:
        """What is wrong at code points `[start, end)`; None where there is no passage to compare with.

        A fault within the part comes first, then those of the sentences that it touches.
        """
        if not self._source.passages:
            return None
        touched = list[Sentence]()
        for each in self._sentences[bisect_right(self._ends, start) :]:
            if each.start >= end or len(touched) == TOUCHED:
                break
            touched.append(each)
        faults = [(term, each) for sentence in touched for term, each in self._measured(sentence).items()]
        faults.sort(key=lambda found: (not (found[1].start < end and found[1].end > start), ORDER.index(found[0])))
        if faults:
            return self._fault(*faults[0])
        near = self._source.evidence.find(self._response, start, end)
        for sentence in touched:
            if found := self._turned(sentence, near) or self._unknown(sentence, start, end):
                return found
        if near is None:
            return "Nothing in the passages speaks of this."
        verb = "says something else" if near["similarity"] >= NEAR else "hardly speaks of this"
        return f"The nearest text {verb}: {_quoted(near['text'])}{self._where(near)}."

    def _measured(self, sentence: Sentence) -> Mapping[str, Fault]:
        place = (sentence.start, sentence.end)
        if place not in self._faults:
            (self._faults[place],) = self._source.binding.measure(self._response, [place])
        return self._faults[place]

    def _fault(self, term: str, fault: Fault) -> str:
        said = _quoted(self._response[fault.start : fault.end])
        if not fault.instead:
            return f"{said} is not in the passages."
        instead, where = _quoted(fault.instead), self._passage(fault.passage, fault.at)
        if term == "absent_quantities":
            return f"{said} is not in the passages; the nearest text says {instead}{where}."
        if term == "reversed_names":
            return f"The names stand the other way round in the nearest text{where}."
        return f"The passages put {said} elsewhere; the nearest text says {instead}{where}."

    def _turned(self, sentence: Sentence, near: Mapping[str, Any] | None) -> str | None:
        """A negation that one of both texts has, or an opposite."""
        if near is None or near["similarity"] < NEAR:
            return None
        mine, theirs = set(_plain(self._response[sentence.start : sentence.end])), set(_plain(near["text"]))
        where = self._where(near)
        for word in sorted(mine - theirs):
            if turned := sorted(OPPOSITES.get(word, frozenset()) & (theirs - mine)):
                return f"The nearest text says “{turned[0]}”, not “{word}”{where}."
        if near["similarity"] >= SAME and bool(mine & NEGATIONS) != bool(theirs & NEGATIONS):
            who = "the answer denies" if mine & NEGATIONS else "the nearest text denies"
            return f"Only {who} it: {_quoted(near['text'])}{where}."
        return None

    def _unknown(self, sentence: Sentence, start: int, end: int) -> str | None:
        """Words of the part that no passage has: names, where there are some."""
        absent: dict[str, bool] = {}
        for first, last, word in spelt(self._response, max(start, sentence.start), min(end, sentence.end)):
            if word not in STOP_WORDS and len(word) > 2 and word not in self._source.words:
                spelling = self._response[first:last]
                absent[spelling] = spelling[0].isupper() and first > sentence.start
        names = [spelling for spelling, name in absent.items() if name] or list(absent)
        if not names:
            return None
        return f"The passages do not mention {_listed(names[:MOST])}."

    def _where(self, near: Mapping[str, Any]) -> str:
        place = self._places.get((near["passage_id"], near["start"], near["text"]), 0)
        return self._passage(place, near["start"])

    @cached_property
    def _places(self) -> dict[tuple[str | None, int, str], int]:
        """Which passage a piece of evidence is of."""
        evidence, passages = self._source.evidence, self._source.passages
        found = ((passages[piece.passage].id, piece.start, i, piece.passage) for i, piece in enumerate(evidence.pieces))
        return {(name, start, evidence.text(i)): number for name, start, i, number in found}

    def _passage(self, number: int, at: int) -> str:
        """Which passage, as the caller counts them; nothing where there is one."""
        passage = self._source.passages[number]
        if passage.id is not None:
            return f" (passage {_clean(passage.id)})" if len(self._source.passages) > 1 else ""
        pieces = self._source.evidence.pieces
        place = bisect_right(pieces, (number, at), key=lambda piece: (piece.passage, piece.start)) - 1
        return f" (passage {pieces[place].number})" if self._numbered and place >= 0 else ""

    @cached_property
    def _numbered(self) -> bool:
        """Whether the text itself counts several passages."""
        return len({piece.number for piece in self._source.evidence.pieces}) > 1


def _plain(text: str) -> list[str]:
    """Words in lower case, as `opposites` has them."""
    lower = text.lower().replace("’", "'").replace("n't", " not")
    return ["".join(c for c in word if c.isalnum()) for word in lower.split()]


def _clean(text: str) -> str:
    """Text on one line, without what a terminal or a page might obey."""
    return " ".join("".join(c if unicodedata.category(c) not in HIDDEN else " " for c in text).split())


def _quoted(text: str) -> str:
    text = _clean(text).rstrip(".")
    return f"“{text}”" if len(text) <= QUOTE else f"“{text[:QUOTE].rsplit(' ', 1)[0]} …”"


def _listed(names: list[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
