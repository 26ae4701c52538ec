"""Reasons: one sentence that names what the texts show, and quotes the nearest passage where they show nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.reasons import QUOTE, Reasons
from groundwire.source import Source
from groundwire.types import Detection, Passage, SentenceScore, Span, Verdict

PASSAGES = (
    Passage("Brenholt Tools. Revenue rose to 44.8 million euros. Operating profit fell to 4.6 million euros.", "1"),
    Passage(
        "In February, Brenholt bought the hinge maker Castervik from Sundal Group. Chief executive Ines Falk said more "
        "was possible. Finance chief Tor Abel expects steel prices to ease. The prize may not be paid twice.",
        "b",
    ),
)


def reason(response: str, part: str | None = None, passages: tuple[Passage, ...] = PASSAGES) -> str | None:
    source = Source("\n\n".join(p.text for p in passages), passages)
    start = response.index(part) if part else 0
    return Reasons(source, response).of(start, start + len(part) if part else len(response))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (
            "Revenue rose to 45.1 million euros.",
            "“45.1 million euros” is not in the passages; the nearest text says “44.8 million euros” (passage 1).",
        ),
        (
            "Revenue rose to 4.6 million euros.",
            "The passages put “4.6 million euros” elsewhere; the nearest text says “44.8 million euros” (passage 1).",
        ),
        (
            "Chief executive Tor Abel said that more was possible.",
            "The passages put “Tor Abel” elsewhere; the nearest text says “Ines Falk” (passage b).",
        ),
        (
            "Castervik bought Brenholt in February.",
            "The names stand the other way round in the nearest text (passage b).",
        ),
        ("Revenue fell to 44.8 million euros.", "The nearest text says “rose”, not “fell” (passage 1)."),
        (
            "The prize may be paid twice.",
            "Only the nearest text denies it: “The prize may not be paid twice” (passage b).",
        ),
        ("The hinge maker was founded by Wexford.", "The passages do not mention “Wexford”."),
        ("It lasted 12 years.", "“12 years” is not in the passages."),
        ("Zorp quux.", "The passages do not mention “Zorp” or “quux”."),
    ],
)
def test_what_the_texts_show_is_named(response, expected):
    assert reason(response) == expected


def test_without_anything_to_show_the_nearest_text_is_quoted():
    said = reason("Steel prices and the hinge maker ease the profit.")
    assert said is not None
    assert said.startswith("The nearest text ")
    assert "“" in said
    assert reason("?!") == "Nothing in the passages speaks of this."


def test_a_fault_inside_the_part_comes_first():
    response = "Chief executive Tor Abel said that revenue rose to 45.1 million euros."
    assert "Tor Abel" in (reason(response, "Tor Abel") or "")
    assert "45.1" in (reason(response, "45.1 million") or "")


def test_a_single_passage_is_not_numbered_and_labels_in_a_prompt_are():
    (only,) = PASSAGES[:1]
    assert (reason("Revenue rose to 45.1 million euros.", passages=(only,)) or "").endswith("“44.8 million euros”.")
    prompt = (Passage("Passage 1: Nothing here.\n\nPassage 2: Revenue rose to 44.8 million euros."),)
    assert (reason("Revenue rose to 45.1 million euros.", passages=prompt) or "").endswith("(passage 2).")


def test_passages_without_ids_are_told_apart():
    passages = (Passage("Passage 1: The bridge is red."), Passage("Passage 2: The tower is tall."))
    said = reason("The tower collapsed quickly tall.", passages=passages)
    assert said is not None
    assert "passage 1" not in said


def test_nothing_a_terminal_obeys_is_quoted():
    passages = (Passage("Revenue rose to \x1b]0;hi\x07 44.8 million euros.", "a\n\x1b[2J"), Passage("x", "b"))
    for response in ("Revenue rose to 45.1 million euros.", "Revenue sank."):
        said = reason(response, passages=passages)
        assert said is not None
        assert "\x1b" not in said
        assert "\n" not in said


def test_without_passages_there_is_no_reason():
    assert reason("Revenue rose.", passages=()) is None


def test_a_long_passage_is_quoted_in_part():
    said = reason("Steel ease.", passages=(Passage("steel prices ease " * 40),))
    assert said is not None
    assert len(said) < QUOTE + 80
    assert said.endswith("…”.")


WORDS = ["Tor", "Abel", "4.6", "million", "rose", "fell", "not", ".", "\n", "the"]
TEXT = st.text(max_size=80) | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join)


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=3), TEXT, st.data())
def test_any_part_of_any_answer_has_one_line(passages, response, data):
    start = data.draw(st.integers(0, len(response)))
    end = data.draw(st.integers(start, len(response)))
    found = Reasons(Source("\n\n".join(passages), tuple(map(Passage, passages))), response).of(start, end)
    assert found is not None
    assert found.endswith(".")
    assert "\n" not in found


# -- of a whole answer ---------------------------------------------------------------------------------------------


def verdict(*scores: float, spans: tuple[Span, ...] = (), flagged: bool | None = True) -> Verdict:
    sentences = tuple(SentenceScore(i, i + 1, "x", score, f"Reason {i}.") for i, score in enumerate(scores))
    detection = Detection("checked", score=max(scores, default=0.9), sentences=sentences, spans=spans)
    return Verdict(detection, 0.5, flagged, "annotate")


def test_an_answer_is_explained_by_its_worst_sentence():
    assert verdict(0.2, 0.8, 0.6).explanation == "2 of 3 statements are not supported. Reason 1."
    assert verdict(0.2, 0.8).explanation == "1 of 2 statements is not supported. Reason 1."
    assert verdict(0.8).explanation == "Reason 0."
    assert verdict(0.8).to_dict()["explanation"] == "Reason 0."


def test_without_sentences_by_its_worst_span():
    spans = (Span(0, 1, "x", 0.6, reason="One."), Span(2, 3, "y", 0.9, reason="Two."))
    assert verdict(spans=spans).explanation == "Two."
    assert verdict().explanation == "The answer as a whole is not what the passages say."


def test_what_is_not_flagged_has_no_explanation():
    assert verdict(0.4, flagged=False).explanation is None
    assert Verdict(Detection("not_checked", "abstained"), 0.5, None, "annotate").explanation is None


def test_a_verdict_prints_as_one_line():
    assert str(verdict(0.8)) == "unfaithful (score 0.80, threshold 0.50): Reason 0."
    assert str(verdict(0.4, flagged=False)) == "faithful (score 0.40, threshold 0.50)"
    assert str(Verdict(Detection("not_checked", "abstained"), 0.5, None, "annotate")) == "not checked: abstained"
