"""Grounding terms: nothing absent in what was copied, counts that only grow, one cost for every text."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.additive import Shapes
from groundwire.errors import ArtifactError
from groundwire.grounding import GROUNDING_TERMS, Grounding, GroundingHead

PROMPT = "The Tidewater Bridge opened on 14 May 1931. It is 1,642 metres long; the builders' names aren't known."
WORDS = [
    "bridge",
    "Bridge",
    "bridges",
    "it's",
    "1889",
    "1,5",
    "the",
    "of",
    "É",
    "東京",
    "x",
    "İ",
    "Straße",
    "don’t",
    "_",
]
TEXTS = st.lists(st.sampled_from([*WORDS, ".", "\n", "'", ",", "🏴", "e\u0301"]), max_size=30).flatmap(
    lambda parts: st.sampled_from([" ".join(parts), "".join(parts)])
) | st.text(max_size=40)
ABSENT = [name for name in GROUNDING_TERMS if "absent" in name]
COUNTS = [name for name in GROUNDING_TERMS if name not in ("best_window_soft", "absent_share")]


@given(TEXTS, TEXTS)
def test_every_term_is_a_number_of_its_own(prompt, response):
    found = Grounding(prompt).measure(response)
    assert list(found) == list(GROUNDING_TERMS)
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert found["absent_share"] <= 1
    assert found["best_window_soft"] <= 1
    assert found["soft_absent_words"] <= found["absent_words"]
    assert found["longest_absent_run"] <= found["absent_bigrams"]


@given(TEXTS, st.data())
def test_what_is_copied_from_the_prompt_is_not_absent(prompt, data):
    """Cut where words begin and end, as the prompt's own words are told apart."""
    words = list(re.finditer(r"\d+(?:[.,:]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|\w", prompt))
    first = data.draw(st.integers(0, len(words)))
    last = data.draw(st.integers(first, len(words)))
    copied = prompt[words[first].start() : words[last - 1].end()] if first < last else ""
    found = Grounding(prompt).measure(copied)
    assert {name: found[name] for name in ABSENT} == dict.fromkeys(ABSENT, 0.0)
    assert found["best_window_soft"] == 0
    assert found["words"] == pytest.approx(math.log1p(last - first))


@given(TEXTS, TEXTS)
def test_counts_grow_with_a_foreign_word(prompt, response):
    index = Grounding(prompt)
    before, after = index.measure(response), index.measure(f"{response} Qwertyzuiop")
    assert all(after[name] >= before[name] for name in COUNTS)
    for name in ("absent_words", "soft_absent_words", "word_gaps", "words"):
        assert after[name] > before[name], name


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_a_shared_index_measures_as_a_fresh_one(prompt, responses):
    shared = Grounding(prompt)
    for response in [*responses, *responses]:
        assert shared.measure(response) == Grounding(prompt).measure(response)


@given(TEXTS, TEXTS, st.data())
def test_a_growing_answer_is_measured_as_if_it_ended_there(prompt, response, data):
    index = Grounding(prompt)
    growing = index.follow()
    for end in sorted(data.draw(st.lists(st.integers(0, len(response)), max_size=12))):
        assert growing.measure(response[:end]) == index.measure(response[:end])
    assert growing.measure(response) == index.measure(response)


def counts(prompt: str, response: str) -> dict[str, float]:
    """What was counted, without the logarithm."""
    found = Grounding(prompt).measure(response)
    return {name: round(math.expm1(found[name]), 6) for name in COUNTS}


def test_the_terms_are_what_their_names_say():
    response = "The bridge opened on 14 May 1932. Then Sir Blackwood saw it. His bridge's builder isn't known."
    found = counts(PROMPT, response)
    assert found["words"] == 17
    assert found["absent_words"] == 6  # 1932 Sir Blackwood saw builder isn't
    assert found["absent_numbers"] == 1
    assert found["absent_names"] == 2  # "Then" and "His" begin a sentence
    assert found["absent_bigrams"] == 12
    assert found["longest_absent_run"] == 11


@pytest.mark.parametrize(
    ("word", "soft"), [("builder", 0.0), ("building", 3 / 8), ("zebra", 1.0), ("BUILDERS", 0.0), ("builders’s", 0.0)]
)
def test_an_absent_word_counts_less_where_one_of_the_prompt_begins_alike(word, soft):
    assert counts("Six builders built it.", word)["soft_absent_words"] == pytest.approx(soft)


@pytest.mark.parametrize(
    ("response", "names"),
    [
        ("Lisbon", 0),
        ("in Lisbon", 1),
        ("In Lisbon. Porto", 1),
        ("in (Lisbon) and *Porto*", 2),
        ("in lisbon", 0),
        ("a list\n- Lisbon\n- Porto", 0),
        ('said: "Lisbon', 0),
    ],
)
def test_names_are_capitalised_words_inside_a_sentence(response, names):
    assert counts("Nothing of this.", response)["absent_names"] == names


@pytest.mark.parametrize(
    ("response", "gap"),
    [
        ("red", 2.0),  # nothing before it
        ("red green", 2 + math.log1p(1)),
        ("red the blue", 2 + math.log1p(4)),
        ("red red", 2.0),
        ("red violet", 2 + 8.0),
        ("red violet green", 2 + 8 + math.log1p(1)),
        ("red blue green", 2 + math.log1p(4) + math.log1p(1)),  # green stands next to red, two words back
    ],
)
def test_gaps_are_distances_in_the_prompt(response, gap):
    assert counts("red green one two blue", response)["word_gaps"] == pytest.approx(gap, abs=1e-5)


def test_the_best_window_is_that_of_eight_words_with_most_that_is_absent():
    index = Grounding("a b c d e f g h i j")
    assert index.measure("b c zz b")["best_window_soft"] == pytest.approx(1 / 4)
    response = " ".join(["b"] * 10 + ["zz"] * 4 + ["b"] * 10)
    assert index.measure(response)["best_window_soft"] == pytest.approx(4 / 8)


HOSTILE = {
    "one word": ("word ", "word "),
    "no spaces": ("a", "b"),
    "two words": ("x y ", "y x "),
    "numbers": ("1,", "1:"),
    "marks": ("A'", "( "),
    "spaces": (" ", "A\n\n\n\n\n\n\n\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_linear_time(name):
    def seconds(size: int) -> float:
        prompt, response = (part * (size // len(part)) for part in HOSTILE[name])
        best = math.inf
        for _ in range(2):
            start = time.process_time()
            Grounding(prompt).measure(response[: size // 10])
            best = min(best, time.process_time() - start)
        return best

    assert seconds(400_000) < 30 * seconds(40_000) + 0.2


def head(*names: str) -> GroundingHead:
    knots = np.array([0.0, 2.0])
    return GroundingHead(names, Shapes.piecewise_linear([knots] * len(names), [knots * i for i in range(len(names))]))


def test_a_head_reads_its_own_terms_in_its_own_order():
    measured: dict[str, float] = {name: 0.25 * i for i, name in enumerate(GROUNDING_TERMS)}
    found = head("words", "absent_numbers", "absent_words")
    assert found.contributions(measured).tolist() == [0.0, 0.5, 0.0]
    assert found.scaled(3.0).contributions(measured).tolist() == [0.0, 1.5, 0.0]
    assert [(t.kind, t.name, t.feature_id) for t in found.terms[:1]] == [("grounding", "number of words", None)]


@pytest.mark.parametrize(
    ("names", "words"), [(("words", "colour"), "(?s)colour.*newer version"), (("words", "words"), "no term twice")]
)
def test_a_head_of_unknown_or_repeated_terms_is_refused(names: Any, words: str):
    with pytest.raises(ArtifactError, match=f"(?s){words}"):
        head(*names)


def test_a_head_with_another_number_of_shapes_is_refused():
    with pytest.raises(ArtifactError, match="2 shapes"):
        GroundingHead(("words",), head("words", "absent_words").shapes)
