"""Token scores become character spans: the parts of an answer that leave its passages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from groundwire.types import SentenceScore, Span, TokenScore


@dataclass(frozen=True)
class SpanRule:
    """threshold: token score from which a token is unfaithful. merge_gap: spans at most this many code points apart
    become one. min_length: shorter spans (code points) are dropped. sentence: score of a sentence from which it may
    hold spans. fault: log-odds from which a fault of the texts is a span, whatever its tokens score; None for none."""

    threshold: float = 0.5
    merge_gap: int = 1
    min_length: int = 2
    sentence: float = 0.0
    fault: float | None = None


class Mark(NamedTuple):
    """A fault of the texts at code points `[start, end)`: what it adds to the log-odds of its sentence."""

    start: int
    end: int
    contribution: float


def find_spans(
    text: str,
    tokens: Sequence[TokenScore],
    rule: SpanRule,
    sentences: Sequence[SentenceScore] = (),
    marks: Sequence[Mark] = (),
) -> tuple[Span, ...]:
    """Spans of `text` whose tokens score at least the rule's threshold, or that a mark names; in order, apart.

    A span covers whole words and neither begins nor ends with white space; its score is its highest token's, that of a
    mark the score of its sentence. sentences: those of the text; none where they are not known. marks: within them.
    """
    found = [(t.start, t.end, t.score) for t in tokens if t.score >= rule.threshold and t.end > t.start]
    calm = [s for s in sentences if s.score < rule.sentence]
    found = [part for part in found if not _between(calm, part[0], part[1])]
    ends = [s.end for s in sentences]
    for mark in marks if rule.fault is not None else ():
        place = bisect_right(ends, mark.start)
        own = sentences[place].score if place < len(sentences) else 0.0
        if mark.contribution >= (rule.fault or 0.0) and own >= rule.sentence and mark.end > mark.start:
            found.append((mark.start, mark.end, own))
    merged: list[tuple[int, int, float]] = []
    for first, last, score in sorted(found):
        start, end = _whole_words(text, first, last)
        near = merged and start - merged[-1][1] <= rule.merge_gap
        if near and not _between(calm, merged[-1][1], start):
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end), max(before[2], score))
        else:
            merged.append((start, end, score))
    spans = []
    for start, end, score in merged:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        if end - start >= rule.min_length:
            spans.append(Span(start, end, text[start:end], score))
    return tuple(spans)


def _between(sentences: Sequence[SentenceScore], start: int, end: int) -> bool:
    """Whether one of the sentences, which are in order and apart, shares a code point with `[start, end)`."""
    place = bisect_right(sentences, start, key=lambda sentence: sentence.end)
    return place < len(sentences) and sentences[place].start < end


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    if start == end:
        return start, end
    while start > 0 and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return start, end
