"""Sentences lie inside the text, in order, apart and bounded; forms of a word meet."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.sentences import MAX_CHARACTERS, MAX_WORDS, sentences, words

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
