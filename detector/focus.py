"""What of a prompt each sentence of an answer is read with: the passage sentences nearest to it, and all that is no
passage (template, instructions, question).

A small model that attends to ten passages at once hardly notices that one number in them is another; with all but one
or two sentences hidden it does (benchmarks/results/facts.json). Nothing is read twice: the prompt's keys and values
are those of the whole prompt, and only what the answer's tokens attend to differs.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from groundwire.evidence import EvidenceIndex
from groundwire.prompts import Rendered
from groundwire.sentences import sentence_ends
from groundwire.types import Passage, Token

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Focus:
    """The prompt tokens that the tokens of an answer attend to.

    ends: where runs of answer tokens end, ascending; the last is the number of tokens. seen: of each run, ranges
    `[start, end)` of prompt tokens, ascending and apart.
    """

    ends: tuple[int, ...]
    seen: tuple[Ranges, ...]

    def alike(self, other: Focus, most: int) -> int:
        """How many of the first `most` tokens see the same with another focus."""
        at = 0
        while at < most:
            mine, theirs = bisect_right(self.ends, at), bisect_right(other.ends, at)
            if self.seen[mine] != other.seen[theirs]:
                return at
            at = min(self.ends[mine], other.ends[theirs])
        return most


class FocusIndex:
    """Finds the focus of answers to one prompt."""

    def __init__(self, prompt: Rendered) -> None:
        self._prompt = prompt
        self._index = EvidenceIndex([Passage(prompt.text[start:end]) for start, end in prompt.contents])
        starts, ends = [start for start, _ in prompt.offsets], [end for _, end in prompt.offsets]
        self._tokens: list[tuple[int, int]] = []  # of each sentence
        for piece in self._index.pieces:
            base = prompt.contents[piece.passage][0]
            first = bisect_right(ends, base + piece.start)
            self._tokens.append((first, max(first, bisect_left(starts, base + piece.end))))

    def of(self, response: str, tokens: Sequence[Token], sentences: int) -> Focus:
        """The focus of an answer, `sentences` of the passages for each of its own.

        tokens: those of `response`, in order. A sentence that shares no word with any passage sees the whole prompt.
        """
        ends, seen, first = list[int](), list[Ranges](), 0
        for last in sentence_ends(response, tokens):
            near = self._index.nearest(response, tokens[first].start, tokens[last].end, sentences)
            ends.append(last + 1)
            seen.append(self._seen(set(near)) if near else ((0, len(self._prompt)),))
            first = last + 1
        if ends:
            ends[-1] = len(tokens)
        return Focus(tuple(ends), tuple(seen))

    def _seen(self, shown: set[int]) -> Ranges:
        """All tokens but those of sentences that tell something and are not shown. The last sentence stays: it may be
        what is asked for."""
        found, at = list[tuple[int, int]](), 0
        for i, (piece, (start, end)) in enumerate(zip(self._index.pieces, self._tokens, strict=True)):
            if piece.asks or i in shown or i == len(self._tokens) - 1 or start == end:
                continue
            if at < start:
                found.append((at, start))
            at = max(at, end)
        if at < len(self._prompt):
            found.append((at, len(self._prompt)))
        return tuple(found)
