"""Token scores become character spans: the parts of an answer that leave its passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groundwire.types import Span, TokenScore


@dataclass(frozen=True)
class SpanRule:
    """threshold: token score from which a token is unfaithful. merge_gap: spans at most this many code points apart
    become one. min_length: shorter spans (code points) are dropped."""

    threshold: float = 0.5
    merge_gap: int = 1
    min_length: int = 2


def find_spans(text: str, tokens: Sequence[TokenScore], rule: SpanRule) -> tuple[Span, ...]:
    """Spans of `text` whose tokens score at least the rule's threshold, in order, without overlap.

    A span covers whole words and neither begins nor ends with white space; its score is its highest token's.
    """
    merged: list[tuple[int, int, float]] = []
    for token in tokens:
        if token.score < rule.threshold or token.end <= token.start:
            continue
        start, end = _whole_words(text, token.start, token.end)
        if merged and start - merged[-1][1] <= rule.merge_gap:
            before = merged[-1]
            merged[-1] = (before[0], max(before[1], end), max(before[2], token.score))
        else:
            merged.append((start, end, token.score))
    spans = []
    for start, end, score in merged:
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip())
        end -= len(piece) - len(piece.rstrip())
        if end - start >= rule.min_length:
            spans.append(Span(start, end, text[start:end], score))
    return tuple(spans)


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
