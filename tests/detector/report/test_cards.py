from __future__ import annotations

import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.report import cards
from groundwire.report.answers import Answer
from groundwire.report.cards import card, highlighted, kind_sums
from groundwire.report.markup import visible
from groundwire.report.rows import parse_scored
from groundwire.types import Span

HOSTILE = "<script>alert('x')</script> \"quoted\" \u202e\u05d0 & 👩‍👩‍👧 é"
ANSWER = Answer(1, 1, "The bridge is blue.", [{"role": "user", "content": "Passage"}])


def text_of(markup: str) -> str:
    return unescape(re.sub("<[^>]*>", "", markup))


@given(st.text(), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_marks_add_and_lose_no_character(text, spans):
    found = [Span(min(s), max(s), "", 0.5) for s in spans]
    marked = highlighted(text, found)
    assert text_of(marked) == visible(text)
    inside = "".join(unescape(piece) for piece in re.findall("<mark[^>]*>(.*?)</mark>", marked, re.S))
    covered = {i for s in found for i in range(s.start, s.end)}
    assert inside == "".join(visible(c) for i, c in enumerate(text) if i in covered)


def test_offsets_count_code_points():
    text = "👩‍👩‍👧 é naïve"
    start = text.index("naïve")
    assert '<mark data-n="1">naïve</mark>' in highlighted(text, [Span(start, start + 5, "naïve", 0.9)])


def row(verdict, **fields):
    return parse_scored(verdict(**fields), 1)


def test_a_card_tells_score_spans_and_terms(verdict):
    made = card(1, row(verdict), replace(ANSWER, label=1, columns={"generator": "m-7b"}), 2.5)
    said = text_of(made)
    for words in ("0.75", "flagged", "labelled unfaithful", "m-7b", "no passage text given", "bridges", "latent 3 at"):
        assert words in said
    assert '<mark data-n="1">bridge</mark>' in made
    for number in ("+2.50", "−0.50", "+0.10", "−1.00", "+1.10"):
        assert number in said


def test_evidence_stands_beside_its_span(verdict):
    evidence = {"passage_id": "p2", "start": 0, "end": 5, "text": "A tunnel.", "similarity": 0.714}
    span = {"start": 4, "end": 10, "text": "bridge", "score": 0.9, "evidence": evidence}
    said = text_of(card(1, row(verdict, spans=[span]), ANSWER, 1.0))
    assert "passage p2, similarity 0.71" in said
    assert "A tunnel." in said


def test_everything_of_others_is_escaped(verdict):
    evidence = {"passage_id": HOSTILE, "text": HOSTILE, "similarity": None}
    spans = [{"start": 0, "end": 10, "text": HOSTILE[:10], "score": 0.9, "evidence": evidence}]
    term = {"kind": "latent", "name": HOSTILE, "feature_id": 1, "contribution": 1, "token": HOSTILE, "start": 0}
    given = parse_scored(verdict(HOSTILE, spans=spans, terms=[term]), 1)
    messages = [{"role": HOSTILE, "content": HOSTILE}, {"role": "user", "content": HOSTILE}]
    made = card(
        1, given, Answer(1, HOSTILE, HOSTILE, messages, 1, None, {"generator": HOSTILE, "dataset": HOSTILE}), 1.0
    )
    assert "<script" not in made
    assert text_of(made).count(HOSTILE) == 11
    assert 'dir="auto"' in made


def test_kinds_share_all_terms_where_the_row_knows_them(verdict):
    assert kind_sums(row(verdict)) == {"latent": 2.5, "grounding": -0.5}
    assert "of the 2 terms listed" in card(1, row(verdict), ANSWER, 1.0)
    known = row(verdict, shares={"latent": 3.0, "grounding": 0.0, "residual": -1.0})
    assert kind_sums(known) == {"latent": 3.0, "residual": -1.0}
    said = text_of(card(1, known, ANSWER, 1.0))
    assert "of all terms" in said
    assert "latent 75% (+3.00)" in said
    assert "residual 25% (−1.00)" in said
    assert "Share of each kind" not in card(1, row(verdict, terms=[]), ANSWER, 1.0)


@pytest.mark.parametrize(("flag", "shown"), [(True, True), (False, False)])
def test_an_answer_unlike_training_says_so(verdict, flag, shown):
    unlike = {"distance": 3.21, "quantile": 0.998, "flag": flag}
    made = card(1, row(verdict, unlike_training=unlike), ANSWER, 1.0)
    assert ("unlike training" in made) is shown
    assert ("distance 3.21, quantile 0.998" in made) is shown


def test_without_the_text_the_spans_are_told(verdict):
    said = text_of(card(1, row(verdict), None, 1.0))
    assert "pass --answers" in said
    assert "bridge" in said


def test_long_texts_are_cut_and_say_so(verdict):
    text = "The bridge. " * 5000
    middle = "beginning " + "x" * 100_000 + " end"
    many = [{"start": 4, "end": 10, "text": "bridge", "score": 0.9, "evidence": {"text": "y" * 10_000}}] * 500
    made = card(1, row(verdict, spans=many), Answer(1, 1, text, [{"role": "user", "content": middle}]), 1.0)
    assert "[ 52,000 further characters of this answer left out ]" in made
    assert "[ 94,014 characters left out here ]" in made
    assert "[ 470 further spans left out ]" in made
    assert "beginning" in made
    assert " end" in made
    assert len(made) < 60_000


def test_bars_share_one_scale(verdict):
    small = {"kind": "latent", "name": "x", "feature_id": 1, "contribution": 0.25, "token": None, "start": None}
    made = cards.cards([(row(verdict), None), (row(verdict, terms=[small]), None)])
    assert 'width="50.00%"' in made
    assert 'width="5.00%"' in made
