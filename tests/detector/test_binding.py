"""Binding terms: a value that stands beside other words in the passages is found, what the passages say is not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.additive import Shapes
from groundwire.binding import BINDING_TERMS, MOST_SENTENCES, SENTENCES, SLOTS, Binding, BindingHead, bounds
from groundwire.errors import ArtifactError
from groundwire.evidence import EvidenceIndex
from groundwire.sentences import sentences
from groundwire.types import Passage, Token

PASSAGES = [
    "Brenholt Tools. Revenue rose to 44.8 million euros. Operating profit fell to 4.6 million euros.",
    "In February, Brenholt bought the hinge maker Castervik from Sundal Group for 7.5 million. Chief executive Ines "
    "Falk said more was possible. Finance chief Tor Abel expects steel prices to ease.",
]
QUESTION = "Question: What does Tor Abel expect?"


def index(passages: list[str] = PASSAGES, question: str = "") -> Binding:
    return Binding(EvidenceIndex([Passage(text) for text in passages]), "\n\n".join([*passages, question]))


def found(response: str, binding: Binding | None = None) -> list[dict[str, tuple[str, str]]]:
    """Of each sentence, by term: what is misplaced, and what should stand there."""
    places = [(each.start, each.end) for each in sentences(response)]
    measured = (binding or index()).measure(response, places)
    return [{name: (response[m.start : m.end], m.instead) for name, m in each.items()} for each in measured]


@pytest.mark.parametrize(
    ("response", "term", "misplaced"),
    [
        ("The revenue rose to 4.6 million euros.", "misplaced_quantities", ("4.6 million euros", "44.8 million euros")),
        ("Brenholt paid 9 million for the hinge maker.", "absent_quantities", ("9 million", "7.5 million")),
        ("Castervik bought Brenholt in February.", "reversed_names", ("Brenholt", "Brenholt")),
        ("The chief executive is Abel, who said more is possible.", "misplaced_names", ("Abel", "Ines Falk")),
        ("Its finance chief Falk expects lower steel prices.", "misplaced_names", ("Falk", "Tor Abel")),
    ],
)
def test_a_value_of_another_place_is_misplaced(response, term, misplaced):
    (of_sentence,) = found(response)
    assert of_sentence[term] == misplaced


@pytest.mark.parametrize(
    "response",
    [
        "Revenue rose to 44.8 million euros.",
        "The profit fell to 4.6 million.",
        "Brenholt paid 7.5 million for Castervik.",
        "Tor Abel thinks that steel will be cheaper.",
        "The passages name three people.",
        "1. Revenue rose.",
        "Revenue rose (passage 1).",
        "Profit and price come to 12.1 million.",  # a sum
        "",
        "It is so.",
    ],
)
def test_what_stands_where_the_passages_have_it_is_not(response):
    assert not any(found(response))


def test_each_sentence_has_its_own_and_says_where_the_other_value_stands():
    response = "The profit fell to 4.6 million. Revenue rose to 4.6 million."
    places = [(each.start, each.end) for each in sentences(response)]
    good, bad = index().measure(response, places)
    assert not good
    slot = bad["misplaced_quantities"]
    assert response[slot.start : slot.end] == "4.6 million"
    assert slot.start > places[1][0]
    assert PASSAGES[slot.passage][slot.at :].startswith(slot.instead)
    assert 0 < slot.size < 1


def test_what_the_question_names_is_never_misplaced():
    response = "Abel, the chief executive, said that more is possible."
    assert found(response)[0]["misplaced_names"] == ("Abel", "Ines Falk")
    assert not found(response, index(question=QUESTION))[0]


def test_a_year_is_compared_with_years():
    passages = ["The bridge was built in 1931 by 1642 workers. The tunnel was built in 1950."]
    (of_sentence,) = found("The tunnel was built in 1931.", index(passages))
    assert of_sentence == {"misplaced_quantities": ("1931", "1950")}
    assert not found("The bridge was built in 1931.", index(passages))[0]


WORDS = st.sampled_from(
    ["Revenue", "profit", "44.8", "4.6", "1931", "Abel", "rose", "the", ".", "\n", "東京", "É", "'s"]
)
TEXTS = st.lists(WORDS, max_size=40).map(" ".join) | st.text(max_size=60)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
def test_a_gap_is_a_share_and_slots_lie_in_their_sentence(passages, response):
    binding = index(passages)
    places = [(each.start, each.end) for each in sentences(response)]
    measured = binding.measure(response, places)
    assert measured == index(passages).measure(response, places)
    for (start, end), each in zip(places, measured, strict=True):
        assert set(each) <= set(BINDING_TERMS)
        for slot in each.values():
            assert 0 < slot.size < 1
            assert start <= slot.start < slot.end <= end
            assert passages[slot.passage][slot.at : slot.at + len(slot.instead)] == slot.instead


def test_work_is_bounded_whatever_the_passages_hold(monkeypatch):
    calls = []
    support = Binding._support
    monkeypatch.setattr(Binding, "_support", lambda self, *given: calls.append(1) or support(self, *given))
    passage = " ".join(f"Name{i} paid {i} euros." for i in range(3000))
    sentence = " ".join(f"Name{i} paid {i}" for i in range(20)) + "."
    index([passage]).measure(sentence, [(0, len(sentence))])
    assert 0 < len(calls) <= SLOTS * SLOTS * SENTENCES


def head(*names: str, slope: float = 4.0) -> BindingHead:
    knots, heights = np.array([0.0, 1.0]), np.array([0.0, slope])
    return BindingHead(names, Shapes.piecewise_linear([knots] * len(names), [heights] * len(names)))


def test_a_head_adds_by_sentence_and_points_at_the_token():
    response = "The profit fell to 4.6 million. Revenue rose to 4.6 million."
    words = list(re.finditer(r"\S+\s*", response))
    tokens = [Token(i, word.start(), word.end()) for i, word in enumerate(words)]
    ends = [5, 10]
    assert bounds(tokens, ends) == [(0, 32), (32, len(response))]
    measured = index().measure(response, bounds(tokens, ends))
    read = head("misplaced_names", "misplaced_quantities").read(measured, tokens)
    (slot,) = measured[1].values()
    assert read.contributions.tolist() == [[0, 0], [0, pytest.approx(4 * slot.size)]]
    assert read.rows.tolist() == [[-1, -1], [-1, 9]]
    halved = head("misplaced_quantities").scaled(0.5).read(measured, tokens)
    assert float(halved.contributions[1, 0]) == pytest.approx(2 * slot.size)


def test_a_head_marks_what_it_counts():
    response = "Revenue rose to 4.6 million. Castervik bought Brenholt in February."
    measured = index().measure(response, [(0, 28), (29, len(response))])
    (mark,) = head("misplaced_quantities").marks(measured)
    assert response[mark.start : mark.end] == "4.6 million"
    assert mark.contribution == pytest.approx(4 * measured[0]["misplaced_quantities"].size)
    assert len(head("misplaced_quantities", "reversed_names").marks(measured)) == 2
    assert head("misplaced_names").marks([{}]) == []


def test_unknown_terms_are_refused():
    with pytest.raises(ArtifactError, match=r"terms \['absent_words'\]"):
        head("absent_words")
    assert [term.name for term in head(*BINDING_TERMS).terms] == list(BINDING_TERMS.values())


def test_a_very_long_answer_is_compared_at_its_beginning():
    sentence = "Revenue rose to 4.6 million."
    places = [(i * 29, i * 29 + len(sentence)) for i in range(MOST_SENTENCES + 2)]
    measured = index().measure(f"{sentence} " * len(places), places)
    assert len(measured) == len(places)
    assert [bool(each) for each in measured] == [True] * MOST_SENTENCES + [False] * 2


@pytest.mark.parametrize(
    ("passage", "response"),
    [
        ("Anna met Bob in Rome.", "In Rome, Anna met Bob."),
        ("The book was written by Falk for Meyer.", "The book was written for Meyer by Falk."),
        ("Open from 10:30 to 18:00, at most 1500 people.", "It is open 10.30–18.00, for 1,500 people."),
        ("Return it within a week. It takes half an hour.", "Return it within 7 days. It takes 30 minutes."),
        ("The pool is 10m long and cost $1.2 bn.", "The 10 metres of pool cost $1.2 billion."),
    ],
)
def test_what_is_only_said_otherwise_has_no_fault(passage, response):
    assert not any(found(response, index([passage])))


def test_a_value_late_in_a_long_line_is_there():
    passage = f"Sales by year: {', '.join(f'{2000 + i} had {31 + 7 * i}' for i in range(13))}."
    assert "absent_quantities" not in found("In 2012 sales had 115.", index([passage]))[0]


def test_the_mark_of_a_list_is_no_number_where_a_line_begins():
    response = "Do this:\n17. Dry it."
    assert index(["Dry it for 3 hours."]).measure(response, [(0, 8), (8, len(response))]) == [{}, {}]
