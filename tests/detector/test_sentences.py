"""Sentences lie inside the text, in order, apart and bounded; forms of a word meet."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.sentences import MAX_CHARACTERS, MAX_WORDS, sentence_ends, sentences, words
from groundwire.types import Token

TEXTS = st.text(st.sampled_from("aB1 .,!?\n'\"。東é’:\t") | st.characters(codec="utf-8"), max_size=300)


def cut(text: str) -> list[str]:
    return [text[s.start : s.end] for s in sentences(text)]


@given(TEXTS)
def test_sentences_lie_inside_the_text_apart_and_hold_their_words(text):
    found = list(sentences(text))
    for sentence in found:
        piece = text[sentence.start : sentence.end]
        assert 0 <= sentence.start < sentence.end <= len(text)
        assert piece == piece.strip()
        assert sentence.words == words(piece) != []
        assert len(sentence.words) <= MAX_WORDS
        assert len(piece) <= MAX_CHARACTERS
    for before, after in pairwise(found):
        assert before.end <= after.start


@given(TEXTS, st.integers(0, 50), st.integers(0, 50))
def test_a_part_of_a_text_has_the_offsets_of_the_whole(text, left, right):
    start, end = min(left, len(text)), max(min(left, len(text)), len(text) - right)
    for sentence in sentences(text, start, end):
        assert start <= sentence.start < sentence.end <= end


@given(st.lists(st.integers(1, 12), min_size=1, max_size=400))
def test_no_word_is_lost_where_a_sentence_is_cut(lengths):
    text = " ".join("b" * length for length in lengths)
    assert [word for s in sentences(text) for word in s.words] == words(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It opened. It closed!  Did it?", ["It opened.", "It closed!", "Did it?"]),
        ("Dr. A. Smith of the U.S. Navy spoke. He left.", ["Dr. A. Smith of the U.S. Navy spoke.", "He left."]),
        ("1. Rinse it.\n2. Dry it.", ["1. Rinse it.", "2. Dry it."]),
        ("It costs 3.50 a day. And more.", ["It costs 3.50 a day.", "And more."]),
        ("One of them.The next is glued.", ["One of them.", "The next is glued."]),
        ("see example.com for more", ["see example.com for more"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ('"Yes!" he said.', ['"Yes!" he said.']),
        ("no capitals here. only stops.", ["no capitals here.", "only stops."]),
        ("first line\n\n  second line  \n", ["first line", "second line"]),
        ("passage 1: It opened.\n\nPassage 2:It closed.", ["It opened.", "It closed."]),
        ("橋は1931年に開通した。誰が建てたかは不明。", ["橋は1931年に開通した。", "誰が建てたかは不明。"]),
        ("--- ... !!!", []),
        ("", []),
    ],
)
def test_ends_of_sentences(text, expected):
    assert cut(text) == expected


def test_a_long_sentence_is_cut_evenly_between_words():
    text = " ".join(["word"] * 100) + "."
    assert [len(piece.split()) for piece in cut(text)] == [34, 34, 32]
    assert [len(piece) for piece in cut("x" * 1000)] == [480, 480, 40]


@pytest.mark.parametrize(
    "forms",
    [
        ["opened", "opens", "opening", "Open"],
        ["planned", "plans", "PLANNING"],
        ["prices", "priced", "pricing"],
        ["carries", "carried", "carry"],
        ["Café", "cafe"],
        ["Oracle's", "oracle", "Oracle’s"],
        ["12,500", "12500"],
        ["seven", "7"],
    ],
)
def test_forms_of_a_word_meet(forms):
    assert len({tuple(words(form)) for form in forms}) == 1


@pytest.mark.parametrize(("one", "other"), [("1889", "1931"), ("3.5", "35"), ("species", "special"), ("bus", "but")])
def test_other_words_do_not(one, other):
    assert words(one) != words(other)


@pytest.mark.parametrize("unit", [".", ". ", " ", "\n", "a. ", "1.", "a'", "passage 1:", '!" ', "。", "text: "])
def test_no_input_takes_more_than_linear_time(unit):
    def seconds(count: int) -> float:
        start = time.process_time()
        list(sentences(unit * count))
        return time.process_time() - start

    assert seconds(20_000) < 0.1 + 16 * seconds(2_500)  # quadratic would be 64 times as long


# -- the last tokens of sentences ---------------------------------------------------------------------------------


def tokens_of(text: str) -> list[Token]:
    """A word, a mark or white space with what follows: much as a byte-level tokenizer cuts."""
    return [Token(0, *m.span()) for m in re.finditer(r" ?\w+|\s*[^\w\s]|\s+", text)]


@st.composite
def cut_texts(draw):
    """A text and tokens that hold all of it; a character may be made of two tokens, as in byte-level tokenizers."""
    text = draw(TEXTS)
    inner = draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=120))
    bounds = sorted({0, len(text), *(i for i in inner if i < len(text))})
    spans = list(pairwise(bounds))
    twice = draw(st.sets(st.integers(0, max(0, len(spans) - 1)), max_size=3))
    return text, [Token(0, *span) for i, span in enumerate(spans) for _ in range(1 + (i in twice))]


@settings(max_examples=25)
@given(cut_texts())
def test_ends_are_the_last_tokens_of_sentences(case):
    text, tokens = case
    ends, found = sentence_ends(text, tokens), list(sentences(text))
    assert ends == sorted(set(ends))
    assert all(0 <= end < len(tokens) for end in ends)
    assert bool(ends) == bool(tokens)
    if not found:
        assert ends == [len(tokens) - 1][: len(tokens)]
        return
    last = [max(i for i, token in enumerate(tokens) if token.start < sentence.end) for sentence in found]
    assert ends == sorted(set(last))  # a token that ends two sentences ends one


@settings(max_examples=25)
@given(TEXTS, st.integers(0, 20))
def test_ends_of_a_text_that_is_cut_short_never_go_beyond_its_tokens(text, kept):
    tokens = tokens_of(text)[:kept]
    assert all(0 <= end < len(tokens) for end in sentence_ends(text, tokens))


def pieces(text: str) -> list[str]:
    """The text up to each end."""
    tokens = tokens_of(text)
    bounds = [0, *(tokens[end].end for end in sentence_ends(text, tokens))]
    return [text[start:end] for start, end in pairwise(bounds)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It opened. It closed!  Did it?", ["It opened.", " It closed!", "  Did it?"]),
        ("1. Rinse it.\n2. Dry it.", ["1. Rinse it.", "\n2. Dry it."]),
        ("- salt\n- pepper\n- oil", ["- salt", "\n- pepper", "\n- oil"]),
        ("Steps:\n\n* Rinse it\n* Dry it", ["Steps:", "\n\n* Rinse it", "\n* Dry it"]),
        ("Dr. A. Smith of the U.S. Navy spoke. He left.", ["Dr. A. Smith of the U.S. Navy spoke.", " He left."]),
        ("It costs 3.50 a day, e.g. in May. And more.", ["It costs 3.50 a day, e.g. in May.", " And more."]),
        (
            "It was built in 1889, as passage [1]. It is high.",
            ["It was built in 1889, as passage [1].", " It is high."],
        ),
        ("It was built in 1889 [1][2]. It is high [3].", ["It was built in 1889 [1][2].", " It is high [3]."]),
        ("It is high [1].", ["It is high [1]."]),
        ("It is high", ["It is high"]),
        ("It is high. ", ["It is high."]),
        ("... It is. !!!", ["... It is."]),
        ("--- ... !!!", ["--- ... !!!"]),
        ("", []),
    ],
)
def test_sentences_by_their_last_tokens(text, expected):
    assert pieces(text) == expected


def test_a_text_without_words_is_one_sentence_and_one_without_tokens_has_none():
    assert sentence_ends("?!", [Token(0, 0, 1), Token(1, 1, 2)]) == [1]
    assert sentence_ends("It opened. It closed.", []) == []


def test_sentences_that_share_a_token_are_one():
    text = "橋。道。"
    assert sentence_ends(text, [Token(0, 0, 4)]) == [0]
    assert sentence_ends(text, [Token(0, 0, 2), Token(1, 2, 4)]) == [0, 1]
