"""What of a prompt each sentence of an answer is read with: the passage sentences nearest to it, and all that is no
passage (template, instructions, question).

A small model that attends to ten passages at once hardly notices that one number in them is another; with all but one
or two sentences hidden it does (benchmarks/results/facts.json). Nothing is read twice: the prompt's keys and values
are those of the whole prompt, and only what the answer's tokens attend to differs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from groundwire.evidence import EvidenceIndex
from groundwire.prompts import Rendered
from groundwire.sentences import sentence_ends
from groundwire.types import Passage, Token

LONG = 15  # words for each of which a sentence is read with one passage sentence more: it says more
MOST_SENTENCES = 256  # of an answer; a longer one is read with the whole prompt, so that choosing stays cheap

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Focus:
    """The prompt tokens that the tokens of an answer attend to.

    frame: ranges `[start, end)` of prompt tokens that all of them see. ends: where runs of answer tokens end,
    ascending; the last is the number of tokens. shown: what each run sees besides the frame, ascending and apart from
    it; None for the whole prompt.
    """

    frame: Ranges
    ends: tuple[int, ...]
    shown: tuple[Ranges | None, ...]

    def alike(self, other: Focus, most: int) -> int:
        """How many of the first `most` tokens see the same with another focus."""
        at = 0
        while at < most:
            mine, theirs = bisect_right(self.ends, at), bisect_right(other.ends, at)
            one, two = self.shown[mine], other.shown[theirs]
            if one != two or (one is not None and self.frame != other.frame):
                return at
            at = min(self.ends[mine], other.ends[theirs])
        return most


def alike(one: Focus | None, other: Focus | None, most: int) -> int:
    """`Focus.alike`, where None is the whole prompt for every token."""
    if one is None or other is None:
        return most if one is other else 0
    return one.alike(other, most)


class FocusIndex:
    """Finds the focus of answers to one prompt."""

    def __init__(self, prompt: Rendered) -> None:
        self._index = EvidenceIndex([Passage(prompt.text[start:end]) for start, end in prompt.contents])
        starts, ends = [start for start, _ in prompt.offsets], [end for _, end in prompt.offsets]
        self._tokens: list[tuple[int, int]] = []  # of each sentence; a token that touches two belongs to both
        for piece in self._index.pieces:
            base = prompt.contents[piece.passage][0]
            first = bisect_right(ends, base + piece.start)
            self._tokens.append((first, max(first, bisect_left(starts, base + piece.end))))
        # What asks is never hidden, nor is the last sentence: it may be what is asked for.
        told, asked = set[int](), set[int]()
        for i, (piece, (first, end)) in enumerate(zip(self._index.pieces, self._tokens, strict=True)):
            (asked if piece.asks or i == len(self._tokens) - 1 else told).update(range(first, end))
        self._hidden = told - asked
        self._frame = _runs(i for i in range(len(prompt)) if i not in self._hidden)

    def of(self, response: str, tokens: Sequence[Token], sentences: int) -> Focus:
        """The focus of an answer, `sentences` of the passages for each of its own, more for long ones.

        tokens: those of `response`, in order. A sentence sees the whole prompt where neither it nor the one before it
        shares a word with a passage.
        """
        lasts = sentence_ends(response, tokens)
        if not lasts or len(lasts) > MOST_SENTENCES:
            return Focus(self._frame, (len(tokens),), (None,)) if tokens else Focus(self._frame, (), ())
        shown, first = list[Ranges | None](), 0
        for last in lasts:
            start, end = tokens[first].start, tokens[last].end
            near = self._index.nearest(response, start, end, sentences + len(response[start:end].split()) // LONG)
            places = self._hidden.intersection(i for each in near for i in range(*self._tokens[each]))
            shown.append(_runs(sorted(places)) if near else None)
            first = last + 1
        return Focus(self._frame, (*(last + 1 for last in lasts[:-1]), len(tokens)), tuple(shown))


def _runs(places: Iterable[int]) -> Ranges:
    """Ascending numbers as ranges."""
    found = list[tuple[int, int]]()
    for place in places:
        if found and found[-1][1] == place:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
    return tuple(found)
