from __future__ import annotations

import numpy as np
import pytest

from groundwire.prompts import tokenize_response
from groundwire.spans import SpanRule
from groundwire.training.data import LabelledExample
from groundwire.training.tokens import calibrate_tokens, span_f1
from groundwire.types import TokenScore

RESPONSE = "It was built in 1889 by a keeper from Lisbon."
WRONG = (RESPONSE.index("1889"), RESPONSE.index("1889") + 4)


def example(spans, response=RESPONSE):
    messages = [{"role": "user", "content": "Who built it?"}]
    return LabelledExample("i", messages, response, int(bool(spans)), spans, "g", "m", "d")


def sums_of(tokenizer, row, inside=2.0, outside=-1.0):
    tokens = tokenize_response(tokenizer, row.response)
    wrong = [any(t.start < end and t.end > start for start, end in row.spans or ()) for t in tokens]
    return np.where(wrong, inside, outside).astype(float)


def test_span_f1_by_hand():
    """abcde fghij: 'abcde' is wrong; 'abcde' and 'fghij' score 0.9 and 0.6."""
    row = example(((0, 5),), "abcde fghij")
    scored = {0: [TokenScore("abcde", 0, 5, 0.9), TokenScore(" fghij", 5, 11, 0.6)]}
    assert span_f1([row], scored, SpanRule(0.8, 1, 2)) == 1.0
    # 11 characters drawn (one span: the gap of one is closed), 5 wanted, 5 hit
    assert span_f1([row], scored, SpanRule(0.5, 1, 2)) == pytest.approx(2 * 5 / (11 + 5))
    assert span_f1([row], scored, SpanRule(0.95, 1, 2)) == 0.0


def test_span_f1_counts_characters_over_all_responses():
    rows = [example(((0, 5),), "abcde fghij"), example((), "klmno")]
    scored = {0: [TokenScore("abcde", 0, 5, 0.9)], 1: [TokenScore("klmno", 0, 5, 0.9)]}
    assert span_f1(rows, scored, SpanRule(0.5, 1, 2)) == pytest.approx(2 * 5 / (10 + 5))


def test_a_rule_is_chosen_that_draws_the_labelled_spans(tiny):
    rows = [example((WRONG,)) for _ in range(60)] + [example(()) for _ in range(20)]
    found = calibrate_tokens(tiny.tokenizer, rows, [sums_of(tiny.tokenizer, row) for row in rows])
    assert found.figures["span_f1"] == 1.0
    assert found.figures["token_auc"] == 1.0
    assert found.figures["labelled_responses"] == 80
    assert found.scale > 0
    low, high = (1 / (1 + np.exp(-(found.intercept + found.scale * value))) for value in (-1.0, 2.0))
    assert low < found.rule.threshold <= high


def test_rows_without_span_labels_are_left_out(tiny):
    """Their sums say the opposite; the figures do not move."""
    rows = [example((WRONG,)) for _ in range(60)]
    unlabelled = [example(None) for _ in range(40)]
    sums = [sums_of(tiny.tokenizer, row) for row in rows]
    wanted = calibrate_tokens(tiny.tokenizer, rows, sums)
    against = [-s for s in sums[:40]]
    assert calibrate_tokens(tiny.tokenizer, [*unlabelled, *rows], [*against, *sums]) == wanted


@pytest.mark.parametrize("spans", [None, ()])
def test_without_labelled_spans_nothing_is_learned(tiny, spans):
    rows = [example(spans) for _ in range(5)]
    found = calibrate_tokens(tiny.tokenizer, rows, [sums_of(tiny.tokenizer, row) for row in rows])
    assert (found.intercept, found.scale, found.rule) == (0.0, 1.0, SpanRule())
    assert found.figures == {"token_auc": None, "span_f1": None}


def test_an_empty_response_has_no_tokens_to_learn_from(tiny):
    rows = [example((WRONG,)) for _ in range(60)]
    sums = [sums_of(tiny.tokenizer, row) for row in rows]
    wanted = calibrate_tokens(tiny.tokenizer, rows, sums)
    found = calibrate_tokens(tiny.tokenizer, [*rows, example((), "")], [*sums, np.zeros(0)])
    assert (found.rule, found.scale) == (wanted.rule, wanted.scale)
