"""The passage text a reader should compare a marked span with. Text only: no model, so every way to a score has it."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from groundwire.errors import InputError
from groundwire.sentences import Sentence, sentences, words
from groundwire.types import Passage

THRESHOLD = 0.1  # similarity under which nothing is near: 0.9 of spans lie below it in another question's passages
SENTENCE = 0.2  # weight of a word of the span's sentence far from it; it is 1 in the span and falls with the distance
BEFORE = 0.2  # weight of a word of the sentence before, which may name what "it" is
REACH = 4  # words after which nearness to the span has worn off by a factor e
KIND = 0.5  # weight of "a year" or "a number", where the span has one: "in 1889" should find "in 1931"
CITED = 1.25  # factor on the passage that the answer names beside the span: "(passage 2)", "[2]"
LENGTH = 0.15  # how much more a longer sentence must hold, as `b` of BM25
ASKING = 0.4  # factor on what only asks or instructs, in a passage without an id, which may be a whole prompt
FUZZY = 0.5  # least overlap of character trigrams for two spellings to be one word
CONTEXT = 800  # code points of the response looked at on either side of a span
FULL = 14  # words of the query, the heaviest, that similarity is a share of: a long span is not far for being long

STOP_WORDS = frozenset(
    words(
        "a about above after again against all also although am an and any are as at be because been before being below"
        " between both but by can could did do does doing down during each etc few for from further had has have having"
        " he her here hers him his how however i if in into is it its itself just may me might more most must my no nor"
        " not now of off on once one only or other our out over own per s same shall she should so some such than that"
        " t the their them then there these they this those through to too under until up upon us very was we were what"
        " when where which while who whom whose why will with within without would yet you your"
        # what an answer says about itself
        " according additionally answer based document given important mention mentioned note overall passage passages"
        " provided provides text unable"
    )
)
_ASKS = re.compile(
    r"(?:please |briefly )*(?:summari[sz]e|answer|respond|reply|use|read|write|bear in mind|in case|if they do not"
    r"|based on|given)\b.*\b(?:following|question|passages?|documents?|context|text|article|answer|response)\b"
    r"|(?:question|query|task|instructions?|output|summary|answer|response)\s?(?::|$)|.*\?$",
    re.IGNORECASE,
)
CITATION = re.compile(r"\b(?:passage|document|context|source)s? ?(\d{1,3})\b|\[(\d{1,3})\]", re.IGNORECASE)
_NUMBERED = re.compile(r"(?:passage|document|context|source) ?(\d{1,3}) ?[:.]\s*$", re.IGNORECASE)


class Piece(NamedTuple):
    """A sentence of a passage: the passage's position, code points `[start, end)` of its text, the number an answer
    would cite it by, whether it asks or instructs, and the factor on its score."""

    passage: int
    start: int
    end: int
    number: int
    asks: bool
    factor: float


class EvidenceIndex:
    """Sentences of passages, to be searched for several spans. Keeps the passages' texts; never changes once built.

    How often it is the right sentence was judged by reading: benchmarks/results/evidence-judged.json. Linear in the
    passages. On one core shared with other work, 20,000 words take 47 to 70 ms, then a span in them 0.4 to 0.7 ms (2 ms
    for one in twenty); one prompt of 300 words with its span takes 2 ms (benchmarks/evidence.py).
    """

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)
        self._pieces: list[Piece] = []
        postings: defaultdict[str, list[int]] = defaultdict(list)  # word to the positions of the sentences that hold it
        lengths: list[int] = []
        for position, passage in enumerate(self._passages):
            number = position + 1
            for (start, end, found), asking in sentences_asking(passage.text):
                for key in set(found) - STOP_WORDS:
                    postings[key].append(len(self._pieces))
                if label := _NUMBERED.search(passage.text, max(0, start - 20), start):
                    number = int(label[1])
                asks = passage.id is None and asking
                self._pieces.append(Piece(position, start, end, number, asks, ASKING if asks else 1.0))
                lengths.append(len(found))
        mean = sum(lengths) / max(len(lengths), 1)
        for i, length in enumerate(lengths):
            norm = 1 - LENGTH + LENGTH * length / mean
            self._pieces[i] = self._pieces[i]._replace(factor=self._pieces[i].factor / norm)
        for kind, keys in _kinds(postings).items():
            postings[kind] = sorted({i for key in keys for i in postings[key]})
        spellings: defaultdict[str, list[str]] = defaultdict(list)  # character trigram to the words that hold it
        for key in postings:
            for gram in _trigrams(key):
                spellings[gram].append(key)
        self._postings, self._spellings = dict(postings), dict(spellings)

    def find(self, response: str, start: int, end: int) -> dict[str, Any] | None:
        """The sentence nearest to code points `[start, end)` of `response`, or None where nothing is near.

        {"passage_id": the passage's own id, "start", "end": code points of that passage's text, "text": what they hold,
        "similarity": share of the span's words, and with less weight of the words around it, that the sentence holds,
        weighed by how rare they are, in [0, 1]}. Of sentences that are equally near, the order of the passages only
        decides between equal texts. Raises InputError where the span lies outside the response.
        """
        if not 0 <= start <= end <= len(response):
            given = f"span {start} to {end} of a response of {len(response)} code points"
            raise InputError(given, expected="0 <= start <= end <= length of the response")
        scores, total = self._near(response, start, end)
        if not scores or (highest := max(scores.values())) < THRESHOLD * total:
            return None
        nearest = min((i for i, score in scores.items() if score == highest), key=lambda i: (self.text(i), i))
        piece = self._pieces[nearest]
        return {
            "passage_id": self._passages[piece.passage].id,
            "start": piece.start,
            "end": piece.end,
            "text": self.text(nearest),
            "similarity": round(min(highest / total, 1.0), 4),
        }

    @property
    def pieces(self) -> Sequence[Piece]:
        """The sentences, in the order of the passages."""
        return self._pieces

    def nearest(self, response: str, start: int, end: int, most: int) -> list[int]:
        """Of the sentences that do not ask or instruct, the numbers of the `most` that are nearest to code points
        `[start, end)` of `response`, best first; fewer where fewer share a word with them."""
        scores, _ = self._near(response, start, end)
        told = [i for i in scores if not self._pieces[i].asks]
        return sorted(told, key=lambda i: (-scores[i], i))[:most]

    def _near(self, response: str, start: int, end: int) -> tuple[dict[int, float], float]:
        """`_scores` of a span, with what its sentences cite."""
        near = _context(response, start, end)
        scores, total = self._scores(_query(response, start, end, near))
        cited = _cited(response, start, end, near)
        for i in scores:
            scores[i] *= self._pieces[i].factor * (CITED if self._pieces[i].number in cited else 1.0)
        return scores, total

    def _scores(self, query: Mapping[str, float]) -> tuple[dict[int, float], float]:
        """Of each sentence that holds a word of the query: the sum of weight times rarity; and what all would give."""
        masses: list[float] = []
        scores: dict[int, float] = {}
        for key, weight in query.items():
            known = self._spelt(key)
            masses.append(weight * max((self.idf(k) for k, _ in known), default=self.idf(key)))
            best: dict[int, float] = {}
            for k, likeness in known:
                mass = weight * self.idf(k) * likeness
                for i in self._postings[k]:
                    best[i] = max(best.get(i, 0.0), mass)
            for i, mass in best.items():
                scores[i] = scores.get(i, 0.0) + mass
        return scores, math.fsum(sorted(masses)[-FULL:])

    def idf(self, key: str) -> float:
        """Inverse document frequency over sentences (BM25's, with + 1 as in Lucene, so that it is positive)."""
        found = len(self._postings.get(key, ()))
        return math.log(1 + (len(self._pieces) - found + 0.5) / (found + 0.5))

    def text(self, i: int) -> str:
        """Of sentence number `i`."""
        piece = self._pieces[i]
        return self._passages[piece.passage].text[piece.start : piece.end]

    def _spelt(self, key: str) -> list[tuple[str, float]]:
        """Words of the passages that are `key`, or else are spelt much like it, with their likeness in (0, 1]."""
        if key in self._postings:
            return [(key, 1.0)]
        grams = _trigrams(key)
        shared: dict[str, int] = {}
        for gram in grams:
            for other in self._spellings.get(gram, ()):
                shared[other] = shared.get(other, 0) + 1
        alike = ((other, 2 * n / (len(grams) + len(_trigrams(other)))) for other, n in shared.items() if n > 1)
        return sorted((pair for pair in alike if pair[1] >= FUZZY), key=lambda pair: (-pair[1], pair[0]))[:3]


def sentences_asking(text: str) -> Iterator[tuple[Sentence, bool]]:
    """The sentences of a text, and whether each only asks or instructs."""
    asked = False
    for sentence in sentences(text):
        line = text[sentence.start : sentence.end]
        asks = asked or _ASKS.match(line) is not None
        asked = asks and line.lower().endswith("question:")  # then the next line is the question
        yield sentence, asks


def find_evidence(response: str, span_start: int, span_end: int, passages: Sequence[Passage]) -> dict[str, Any] | None:
    """`EvidenceIndex(passages).find(response, span_start, span_end)`: for one span. None without passages."""
    return EvidenceIndex(passages).find(response, span_start, span_end)


def _query(response: str, start: int, end: int, near: Sequence[Sentence]) -> dict[str, float]:
    """What to look for: the span's words, those of its sentence and of the one before, with their weights."""
    inside = words(response, start, end)
    weights = dict.fromkeys(_kinds(inside), KIND) | dict.fromkeys(inside, 1.0)
    for sentence in near:
        if sentence.end <= start:
            weights = dict.fromkeys(sentence.words, BEFORE) | weights
            continue
        left = words(response, sentence.start, max(sentence.start, start))
        right = words(response, min(sentence.end, end), sentence.end)
        for side in (left[::-1], right):
            for i, word in enumerate(w for w in side if w not in STOP_WORDS):
                weights[word] = max(weights.get(word, 0.0), SENTENCE + (1 - SENTENCE) * math.exp(-i / REACH))
    return {key: weight for key, weight in weights.items() if key not in STOP_WORDS}


def _cited(response: str, start: int, end: int, near: Sequence[Sentence]) -> set[int]:
    """Numbers of the passages that the span's sentences cite; where they cite none, what was cited last before."""
    low, high = min([start, *(s.start for s in near if s.end > start)]), max([end, *(s.end for s in near)])
    cited = list(CITATION.finditer(response, low, min(high + 16, len(response))))  # "... in 1889. (Passage 2)"
    if not cited:
        cited = list(CITATION.finditer(response, max(0, low - CONTEXT), low))[-1:]
    return {int(number[1] or number[2]) for number in cited}


def _context(response: str, start: int, end: int) -> list[Sentence]:
    """The sentences a span touches and, first, the one before them, as far as they lie near the span."""
    low, high = max(0, start - CONTEXT), min(len(response), end + CONTEXT)
    near = [sentence for sentence in sentences(response, low, high) if sentence.start < end]
    before = sum(sentence.end <= start for sentence in near)
    return near[max(0, before - 1) :]


def _kinds(found: Iterable[str]) -> dict[str, list[str]]:
    """The numbers among words by their kind: a wrong year is to be compared with a year."""
    kinds: dict[str, list[str]] = {}
    for word in found:
        if word[0].isdecimal():
            year = len(word) == 4 and word.isdecimal() and "1000" <= word < "2100"
            kinds.setdefault("#year" if year else "#number", []).append(word)
    return kinds


def _trigrams(key: str) -> list[str]:
    """Character trigrams of a word with its ends marked; none of short words and numbers, where a letter is a lot."""
    if len(key) < 4 or not key.isalpha():
        return []
    padded = f" {key} "
    return list({padded[i : i + 3] for i in range(len(key))})
