"""Response-level grounding terms: what of an answer's words is not in its prompt. Texts alone, so every way has them.

    index = Grounding(prompt)              # once for all answers to the prompt
    index.measure(response)                # {"absent_words": 1.39, ...}, one number for each of GROUNDING_TERMS
    growing = index.follow()               # for an answer that is still arriving
    growing.measure(text_so_far)           # the same numbers; only the new words are looked at

Words are compared in lower case and without a possessive 's. Counts are `log1p` of the count. Scripts without spaces
are not taken apart: a run of letters is one word.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, tensor

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError
from groundwire.numbers import Numbers, value_of
from groundwire.types import Term

GROUNDING_TERMS = {
    "absent_words": "content words the prompt does not have",
    "soft_absent_words": "content words the prompt does not have, less where one there begins alike",
    "absent_numbers": "numbers the prompt does not have",
    "strange_numbers": "numbers that neither stand in the prompt nor follow from those that do",
    "absent_names": "capitalised words the prompt does not have",
    "absent_bigrams": "pairs of words that do not stand together in the prompt",
    "absent_trigrams": "triples of words that do not stand together in the prompt",
    "word_gaps": "words that lie far apart in the prompt",
    "longest_absent_run": "longest passage without two words that stand together in the prompt",
    "best_window_soft": "the eight words with most that the prompt does not have",
    "absent_share": "share of the content words that the prompt does not have",
    "words": "number of words",
}
WINDOW = 8  # words of best_window_soft
NEAR = 50  # places of an earlier word, the first in the prompt, that a gap is measured from
EARLIER = 3  # content words that a gap is measured from
FAR = 8.0  # gap of a word that is absent, and the largest of any
UNKNOWN = 2.0  # gap of a word of the prompt before which the answer has none

_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|\w")
_STOP_WORDS = (
    "a an the and or but if then so of in on at by for with from to as is are was were be been being am do does did"
    " have has had having it its this that these those there here i you he she they we him her them his their our"
    " your my me us who whom which what when where why how not no nor only own same than too very can will just"
    " should would could may might must shall about into over after before between during out up down off again"
    " further once all any both each few more most other some such also however"
)
_STOP = frozenset(_STOP_WORDS.split())


class Grounding:
    """The words of a prompt, and how an answer's compare with them. Never changes once built.

    Linear in both texts. On one core shared with other work, a prompt of 350 words takes 0.25 ms and every word of an
    answer 7 µs, in a hostile case 40; a million characters of prompt take half a second.
    """

    def __init__(self, prompt: str) -> None:
        found = [_normal(word) for word in _WORD.findall(prompt)]
        self._places: dict[str, list[int]] = {}
        for place, word in enumerate(found):
            self._places.setdefault(word, []).append(place)
        self._sorted = sorted(self._places)
        self._bigrams = set(pairwise(found))
        self._numbers = Numbers(found)
        self._trigrams = set(zip(found, found[1:], found[2:], strict=False))

    def measure(self, response: str) -> dict[str, float]:
        """A number for each of `GROUNDING_TERMS`, in their order; all are 0 for a text without words."""
        return self.follow().measure(response)

    def follow(self) -> Growing:
        """For an answer that is still arriving: as `measure`, at the cost of the new words alone."""
        return Growing(self)

    def add(self, tally: Tally, response: str, found: re.Match[str]) -> None:
        """Count the next word of `response`."""
        word = _normal(found[0])
        places = self._places.get(word, [])
        content, absent = word not in _STOP, not places
        soft = 1.0 - self._likeness(word) if content and absent else 0.0
        tally.words += 1
        tally.content += content
        tally.absent += content and absent
        tally.soft += soft
        tally.numbers += absent and word[0].isdigit()
        value = value_of(found[0])
        if value is not None and not _list_mark(response, tally.end, found):
            tally.strange += not self._numbers.follows(value)
        tally.names += absent and found[0][0].isupper() and not _starts_sentence(response, tally.end, found.start())
        if len(tally.before) > 0:
            alone = (tally.before[-1], word) not in self._bigrams
            tally.bigrams += alone
            tally.run = tally.run + 1 if alone else 0
            tally.longest = max(tally.longest, tally.run)
        if len(tally.before) > 1:
            tally.trigrams += (*tally.before, word) not in self._trigrams
        if content:
            tally.gaps += _gap(places, tally.earlier)
            if places:
                tally.earlier = (places, *tally.earlier[: EARLIER - 1])
        tally.before, tally.end = (*tally.before[-1:], word), found.end()
        tally.window = (*tally.window[1 - WINDOW :], soft)
        if len(tally.window) == WINDOW:
            tally.best = max(tally.best, sum(tally.window) / WINDOW)

    def _likeness(self, word: str) -> float:
        """The largest share of an absent word's beginning that some word of the prompt has."""
        # What shares the longest beginning stands next to the word in the order of spelling.
        place = bisect_left(self._sorted, word)
        return max((_alike(word, other) for other in self._sorted[max(0, place - 1) : place + 1]), default=0) / len(
            word
        )


@dataclass
class Tally:
    """Counts over the words of an answer so far; copied by `dataclasses.replace`, as all its values are immutable or
    belong to the prompt. `end`: where the last word ended. `before`: the last two words. `earlier`: places in the
    prompt of the last content words it has, the latest first. `window`: soft values of the last eight words."""

    words: int = 0
    content: int = 0
    absent: int = 0
    soft: float = 0.0
    numbers: int = 0
    strange: int = 0
    names: int = 0
    bigrams: int = 0
    trigrams: int = 0
    gaps: float = 0.0
    run: int = 0
    longest: int = 0
    best: float = 0.0
    end: int = 0
    before: tuple[str, ...] = ()
    earlier: tuple[list[int], ...] = ()
    window: tuple[float, ...] = ()

    def terms(self) -> dict[str, float]:
        """A number for each of `GROUNDING_TERMS`."""
        found = {
            "absent_words": self.absent,
            "soft_absent_words": self.soft,
            "absent_numbers": self.numbers,
            "strange_numbers": self.strange,
            "absent_names": self.names,
            "absent_bigrams": self.bigrams,
            "absent_trigrams": self.trigrams,
            "word_gaps": self.gaps,
            "longest_absent_run": self.longest,
        }
        best = self.best if self.words >= WINDOW else sum(self.window) / max(1, self.words)
        share = self.absent / max(1, self.content)
        logs = {name: math.log1p(value) for name, value in found.items()}
        return logs | {"best_window_soft": best, "absent_share": share, "words": math.log1p(self.words)}


class Growing:
    """An answer that is still arriving, measured as if it ended here."""

    def __init__(self, index: Grounding) -> None:
        self._index, self._settled = index, Tally()

    def measure(self, text: str) -> dict[str, float]:
        """The terms of `text`, which begins with the texts of earlier calls. Linear in what is new."""
        tally = self._settled
        for found in _WORD.finditer(text, tally.end):
            # A number or word may go on in what comes next ("1,", "don'"): two characters behind it decide.
            if found.end() + 1 >= len(text) and tally is self._settled:
                tally = replace(tally)
            self._index.add(tally, text, found)
        return tally.terms()


@dataclass(frozen=True)
class GroundingHead:
    """The grounding terms of a detector: `names` out of `GROUNDING_TERMS` and one shape for each, in that order.

    Raises ArtifactError on a name this version does not measure, a name given twice, and another number of shapes.
    """

    known: ClassVar[Mapping[str, str]] = GROUNDING_TERMS

    names: tuple[str, ...]
    shapes: Shapes

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in self.known]:
            raise ArtifactError(
                f"terms {unknown}",
                expected=f"some of {', '.join(self.known)}",
                remedy="install a newer version of groundwire, as the detector was written with one",
            )
        if len(set(self.names)) != len(self.names) or self.shapes.terms != len(self.names):
            raise ArtifactError(
                f"{self.shapes.terms} shapes for the terms {list(self.names)}",
                expected="one for each term, no term twice",
                remedy="restore the artifact as it was written",
            )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms, named for people."""
        return tuple(Term("grounding", self.known[name]) for name in self.names)

    def contributions(self, measured: dict[str, float]) -> Float[Tensor, " terms"]:
        """Log-odds that each term adds to the response's logit, float64."""
        return self.shapes(tensor([[measured[name] for name in self.names]]).double())[0]

    def scaled(self, factor: float) -> GroundingHead:
        """The same terms with contributions times `factor`: how calibration's scale is folded in."""
        return GroundingHead(self.names, self.shapes.scaled(factor))


def _normal(word: str) -> str:
    word = word.lower()
    return word[:-2] if word.endswith(("'s", "’s")) else word


def _starts_sentence(text: str, before: int, start: int) -> bool:
    """Whether the word at `start` is the first of a sentence or line; the word before it ended at `before`."""
    between = text[before:start]
    return before == 0 or "\n" in between or between.rstrip(" \t\"'“(*-").endswith((".", "!", "?", ":", "•"))


def _list_mark(text: str, before: int, found: re.Match[str]) -> bool:
    """Whether a number only counts the lines of a list: "1. ", "2) "."""
    rest = text[found.end() : found.end() + 2]
    return rest[:1] in (".", ")") and not rest[1:].strip() and _starts_sentence(text, before, found.start())


def _alike(word: str, other: str) -> int:
    """Number of characters both begin with."""
    return next((i for i, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), min(len(word), len(other)))


def _gap(places: Sequence[int], earlier: Sequence[Sequence[int]]) -> float:
    """`log1p` of the distance in the prompt, in words, between a word and the nearest of the earlier ones."""
    if not places:
        return FAR
    if not earlier:
        return UNKNOWN
    nearest = math.inf
    for others in earlier:
        if others is places:
            return 0.0
        few = min(len(others), NEAR)
        # The shorter of two ascending lists is looked up in the longer one.
        if len(places) < few:
            pairs = ((place, others, few) for place in places)
        else:
            pairs = ((place, places, len(places)) for place in others[:few])
        for place, among, size in pairs:
            i = bisect_left(among, place, 0, size)
            nearest = min([nearest, *(abs(place - other) for other in among[max(0, i - 1) : min(i + 1, size)])])
            if nearest <= 1:  # no two words stand nearer
                return math.log1p(nearest)
    return min(math.log1p(nearest), FAR)
