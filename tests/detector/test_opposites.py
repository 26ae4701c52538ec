"""Words that turn a sentence: what is opposite is so both ways, and nothing is its own opposite."""

from __future__ import annotations

from groundwire.opposites import NEGATIONS, OPPOSITES


def test_opposites_are_mutual_and_never_the_same():
    for word, others in OPPOSITES.items():
        assert word not in others
        assert all(word in OPPOSITES[other] for other in others)
    assert "fell" in OPPOSITES["rose"]
    assert "unless" in OPPOSITES["if"]


def test_lists_hold_plain_words_in_lower_case():
    for word in (*NEGATIONS, *OPPOSITES):
        assert word.isalpha()
        assert word == word.lower()
