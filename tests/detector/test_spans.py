"""Spans lie inside the text, in order, apart, on whole words; and cover exactly what scored high."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.spans import Mark, SpanRule, find_spans
from groundwire.types import SentenceScore, TokenScore

RULES = st.builds(SpanRule, st.floats(0.1, 0.9), st.integers(0, 4), st.integers(1, 4))


@st.composite
def scored_texts(draw: Any) -> tuple[str, list[TokenScore]]:
    """A text and tokens in order: gaps, overlaps (one character in several tokens) and empty ones occur."""
    text = draw(st.text(st.sampled_from("ab1 \n.,é東🏴") | st.characters(codec="utf-8"), max_size=40))
    starts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    tokens, covered = [], 0
    for start in starts:
        end = draw(st.integers(start, len(text)))
        covered = max(covered, end)
        tokens.append(TokenScore(text[start:covered], start, covered, draw(st.sampled_from([0.0, 0.5, 0.95]))))
    return text, tokens


@given(scored_texts(), RULES)
def test_spans_lie_inside_the_text_and_do_not_overlap(scored, rule):
    text, tokens = scored
    spans = find_spans(text, tokens, rule)
    for span in spans:
        assert 0 <= span.start < span.end <= len(text)
        assert span.text == text[span.start : span.end] == span.text.strip()
        assert len(span.text) >= rule.min_length
    for before, after in pairwise(spans):
        assert after.start > before.end


@given(scored_texts(), RULES)
def test_spans_begin_and_end_with_words(scored, rule):
    text, tokens = scored
    for span in find_spans(text, tokens, rule):
        assert not (span.start and text[span.start - 1].isalnum() and text[span.start].isalnum())
        assert not (span.end < len(text) and text[span.end - 1].isalnum() and text[span.end].isalnum())


@given(scored_texts())
def test_what_scores_high_is_covered_and_a_span_has_its_highest_tokens_score(scored):
    text, tokens = scored
    spans = find_spans(text, tokens, SpanRule(0.5, 1, 1))
    high = [t for t in tokens if t.score >= 0.5 and t.end > t.start]
    for i in {i for t in high for i in range(t.start, t.end) if not text[i].isspace()}:
        assert any(s.start <= i < s.end for s in spans)
    for span in spans:
        assert span.score in {t.score for t in high}
        inside = [t.score for t in high if t.start < span.end and t.end > span.start]
        assert span.score >= max(inside)


@pytest.mark.parametrize(
    ("scores", "rule", "expected"),
    [
        ([0, 0, 0, 0, 0, 0], SpanRule(), []),
        ([0, 0, 0, 0.9, 0, 0], SpanRule(), ["1889"]),
        ([0, 0, 0, 0, 0.7, 0], SpanRule(), ["1889"]),  # half a word marks the word
        ([0, 0, 0.6, 0, 0.9, 0], SpanRule(), ["in 1889"]),
        ([0.8, 0, 0, 0, 0.9, 0], SpanRule(), ["It", "1889"]),
        ([0, 0.5, 0, 0, 0, 0], SpanRule(threshold=0.5), ["was"]),
        ([0, 0, 0, 0, 0, 0.9], SpanRule(), []),  # a full stop alone is too short
        ([0.8, 0, 0.8, 0, 0, 0], SpanRule(merge_gap=5), ["It was in"]),
        ([0, 0.9, 0.9, 0, 0, 0], SpanRule(merge_gap=0), ["was", "in"]),
    ],
)
def test_words_are_marked(scores, rule, expected):
    text = "It was in 1889."
    bounds = [(0, 2), (2, 6), (6, 9), (9, 12), (12, 14), (14, 15)]
    tokens = [TokenScore(text[a:b], a, b, float(s)) for (a, b), s in zip(bounds, scores, strict=True)]
    spans = find_spans(text, tokens, rule)
    assert [s.text for s in spans] == expected


def test_the_parts_of_one_character_mark_it_once():
    text = "a 東 b"
    tokens = [TokenScore("東", 2, 3, score) for score in (0.6, 0.9, 0.2)]
    assert [(s.start, s.end, s.score) for s in find_spans(text, tokens, SpanRule(min_length=1))] == [(2, 3, 0.9)]


def test_marks_are_spans_and_sentences_that_score_low_hold_none():
    text = "It rose to 45 million. It fell in May."
    words = [(0, 2), (3, 7), (8, 10), (11, 13), (14, 22), (23, 25), (26, 30), (31, 33), (34, 38)]
    tokens = [TokenScore(text[a:b], a, b, 0.9 if text[a:b] in ("rose", "fell") else 0.1) for a, b in words]
    sentences = [SentenceScore(0, 22, text[:22], 0.8), SentenceScore(23, 38, text[23:], 0.3)]
    marks = [Mark(11, 21, 1.5), Mark(34, 37, 1.5)]

    def found(**rule):
        return [(s.text, s.score) for s in find_spans(text, tokens, SpanRule(**rule), sentences, marks)]

    assert found() == [("rose", 0.9), ("fell", 0.9)]
    assert found(sentence=0.5) == [("rose", 0.9)]
    assert found(fault=1.0) == [("rose", 0.9), ("45 million", 0.8), ("fell", 0.9), ("May", 0.3)]
    assert found(fault=1.0, sentence=0.5) == [("rose", 0.9), ("45 million", 0.8)]
    assert found(fault=2.0) == found()
    assert found(fault=1.0, sentence=0.5, merge_gap=4) == [("rose to 45 million", 0.9)]
    assert find_spans(text, tokens, SpanRule(fault=1.0)) == find_spans(text, tokens, SpanRule())


def test_spans_do_not_grow_over_a_calm_sentence():
    text = "The sky is red. It is. The sea is pink."
    tokens = [TokenScore("red", 11, 14, 0.9), TokenScore("It", 16, 18, 0.1), TokenScore("sea", 27, 30, 0.9)]
    sentences = [SentenceScore(a, b, text[a:b], s) for a, b, s in ((0, 15, 0.9), (16, 22, 0.1), (23, 39, 0.9))]
    rule = SpanRule(merge_gap=40, sentence=0.3)
    assert [s.text for s in find_spans(text, tokens, rule, sentences)] == ["red", "sea"]
    assert len(find_spans(text, tokens, rule)) == 1
