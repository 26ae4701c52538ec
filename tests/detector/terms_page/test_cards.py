from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html import unescape

import pytest

from groundwire.terms_page.cards import DIRECTIONS, HIGHER, MEANS, card
from groundwire.terms_page.effects import Effect
from groundwire.terms_page.latents import Example, Latent
from groundwire.types import KINDS, Term

HOSTILE = "<script>alert(1)</script>&</style>"
LATENT = Latent((" the", "the", "\n"), (" pro",), (Example("It was\n", " the", " end", 4.25),))


def effect(direction: str = "lowers", term: Term | None = None, *, bounded: bool = True) -> Effect:
    ys = {"raises": (0.0, 0.5), "lowers": (0.1, -0.5), "mixed": (0.0, 0.2, -0.1), "flat": (0.1, 0.1)}[direction]
    points = tuple((float(x), y) for x, y in enumerate(ys))
    return Effect(term or Term("latent", "named", 42), (0.0,), points, bounded, "pre-activation")


def said(markup: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub("<[^>]*>", " ", markup)))


def test_a_latent_that_lowers_the_score_is_said_to_look_faithful():
    words = said(card(3, effect("lowers"), LATENT, -1.0, 1.0))
    assert "▼ lowers the score" in words
    assert "The stronger this latent, the more faithful the text looks to the detector." in words
    assert "raises" not in words
    assert "At most 0.500 log-odds: from −0.500 to +0.100." in words


def test_a_latent_that_raises_the_score_is_said_to_look_unfaithful():
    words = said(card(3, effect("raises"), LATENT, -1.0, 1.0))
    assert "▲ raises the score" in words
    assert "The stronger this latent, the less faithful the text looks to the detector." in words
    assert "lowers" not in words


def test_a_shape_that_turns_back_is_said_to():
    turns = replace(effect(), points=((0.0, 0.5), (1.0, 0.3), (2.0, 0.4), (3.0, -0.5)))
    assert "the more faithful the text looks to the detector. So it is on the whole" in said(
        card(1, turns, None, -1.0, 1.0)
    )
    assert "on the whole" not in said(card(1, effect(), None, -1.0, 1.0))


@pytest.mark.parametrize("direction", ["mixed", "flat"])
def test_neither_is_said_too(direction):
    words = said(card(3, effect(direction), LATENT, -1.0, 1.0))
    assert DIRECTIONS[direction] in words
    assert MEANS[direction].strip() in words


def test_a_card_says_what_the_latent_is():
    words = said(card(3, effect(), LATENT, -1.0, 1.0))
    for part in ("3 named", "latent 42", "It was⏎ the end 4.2", "Strongest tokens the ⏎", "Promotes pro"):
        assert part in words
    assert "<mark>the</mark>" in card(3, effect(), LATENT, -1.0, 1.0)


def test_a_latent_nobody_described_says_so_and_a_grounding_term_does_not():
    assert "do not say where this latent fires" in said(card(1, effect(), None, -1.0, 1.0))
    words = said(card(1, effect(term=Term("grounding", "numbers")), None, -1.0, 1.0))
    assert "do not say" not in words
    assert "The more of this, the more faithful" in words
    assert set(HIGHER) == set(KINDS)


def test_a_shape_without_a_limit_is_not_given_one():
    assert "without a limit" in said(card(1, effect(bounded=False), None, -1.0, 1.0))
    assert "without a limit" not in said(card(1, effect(), None, -1.0, 1.0))


def test_text_of_the_artifact_stays_text():
    latent = Latent((HOSTILE,), (HOSTILE,), (Example(HOSTILE, HOSTILE, HOSTILE, 1.0),))
    made = card(1, effect(term=Term("latent", HOSTILE, 1)), latent, -1.0, 1.0)
    ElementTree.fromstring(made)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 6


def test_a_card_stays_small():
    example = Example("b" * 9999, "t" * 9999, "a" * 9999, 1.0)
    latent = Latent(("x" * 9999,) * 999, tuple(f"{i}" * 9999 for i in range(999)), (example,) * 999)
    assert len(card(1, replace(effect(), term=Term("latent", "n" * 9999, 1)), latent, -1.0, 1.0)) < 15_000
