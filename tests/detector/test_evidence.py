"""Evidence lies in a passage, is the sentence a reader would look for, and never depends on where the passage stood."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.errors import InputError
from groundwire.evidence import EvidenceIndex, find_evidence
from groundwire.prompts import grounded_messages
from groundwire.sentences import MAX_CHARACTERS
from groundwire.types import Passage

BRIDGE = Passage(
    "The Harbour Bridge crosses the river at Aldmouth. It was opened in 1931 by the mayor. "
    "Its towers are 87 metres high. The bridge was painted green after the war.",
    id="bridge",
)
CHEESE = Passage("Cheddar is aged for twelve months. Brie is soft and ripens within four weeks.", id="cheese")
WORDS = st.sampled_from(
    ["the", "bridge", "opened", "1931", "Käse", "東", "it's", "passage 2:", ".", "\n", "war", "[1]"]
)
TEXTS = st.lists(WORDS | st.text(max_size=8), max_size=40).map(" ".join)


def nearest(response: str, span: str, *passages: Passage) -> str | None:
    start = response.index(span)
    found = find_evidence(response, start, start + len(span), passages)
    return found and found["text"]


@st.composite
def spans(draw: st.DrawFn) -> tuple[str, int, int]:
    response = draw(TEXTS)
    start = draw(st.integers(0, len(response)))
    return response, start, draw(st.integers(start, len(response)))


@given(spans(), st.lists(st.builds(Passage, TEXTS, st.none() | st.text(max_size=3)), max_size=5))
def test_offsets_slice_the_passage_to_the_text(span, passages):
    found = find_evidence(*span, passages)
    if found is None:
        return
    assert list(found) == ["passage_id", "start", "end", "text", "similarity"]
    assert 0 <= found["start"] < found["end"]
    assert any(p.id == found["passage_id"] and p.text[found["start"] : found["end"]] == found["text"] for p in passages)
    assert found["text"] == found["text"].strip()
    assert len(found["text"]) <= MAX_CHARACTERS
    assert 0 < found["similarity"] <= 1
    assert json.loads(json.dumps(found)) == found


@given(
    spans().filter(lambda span: not any(c.isdigit() for c in span[0])),  # a number may cite a passage by its place
    st.lists(TEXTS, max_size=5, unique=True),
    st.randoms(),
)
def test_the_order_of_passages_does_not_matter(span, texts, random):
    passages = [Passage(text, id=text) for text in texts]
    found = find_evidence(*span, passages)
    random.shuffle(passages)
    again = find_evidence(*span, passages)
    assert (found and (found["text"], found["similarity"])) == (again and (again["text"], again["similarity"]))


@given(spans(), st.lists(st.builds(Passage, TEXTS), max_size=3))
def test_an_index_serves_every_span_as_if_it_were_the_only_one(span, passages):
    index = EvidenceIndex(passages)
    first = index.find(*span)
    index.find(span[0], 0, len(span[0]))
    assert index.find(*span) == first == find_evidence(*span, passages)


@pytest.mark.parametrize(
    ("response", "span", "expected"),
    [
        ("The Harbour Bridge opened in 1889.", "1889", "It was opened in 1931 by the mayor."),
        ("The towers of the bridge rise to 120 metres.", "120", "Its towers are 87 metres high."),
        ("After the war it was painted red.", "red", "The bridge was painted green after the war."),
        ("Brie ripens in two months.", "two months", "Brie is soft and ripens within four weeks."),
        ("It was built near Aldmuth.", "Aldmuth", "The Harbour Bridge crosses the river at Aldmouth."),
        ("Cheddar is good. It is kept for months on a shelf.", "on a shelf", "Cheddar is aged for twelve months."),
        ("Quantum chromodynamics describes gluons.", "gluons", None),
        ("The and of it.", "of it", None),
        # one word in common is not near
        ("Fermented tofu from Sichuan needs rice wine, chilli, salt and a cool soft cellar floor.", "chilli", None),
        ("...", "...", None),
    ],
)
def test_the_sentence_to_compare_with(response, span, expected):
    assert nearest(response, span, CHEESE, BRIDGE) == expected


def test_a_verbatim_span_is_as_near_as_can_be():
    text = "Its towers are 87 metres high."
    found = find_evidence(text, 0, len(text), [CHEESE, BRIDGE])
    assert found == {"passage_id": "bridge", "start": 86, "end": 116, "text": text, "similarity": 1.0}


def test_words_beside_the_span_count_more_than_those_far_from_it():
    passages = [Passage("The mayor praised the harbour staff. The towers were painted in March.")]
    response = "Speaking to harbour staff the mayor, who came late, said the towers were painted in June."
    assert nearest(response, "June", *passages) == "The towers were painted in March."


@pytest.mark.parametrize("passages", [[], [Passage("")], [Passage(" \n\t")], [Passage("--- … !!!", "x")]])
def test_nothing_to_point_at_is_none(passages):
    assert find_evidence("It opened in 1889.", 13, 17, passages) is None


def test_equal_texts_give_the_first_passage():
    twice = [Passage(BRIDGE.text, "first"), Passage(BRIDGE.text, "second")]
    found = find_evidence("The towers are 120 metres high.", 15, 18, twice)
    assert found is not None
    assert found["passage_id"] == "first"


def test_of_sentences_equally_near_the_same_is_chosen_in_any_order():
    one, two = Passage("Northern clinic opens at nine."), Passage("Southern clinic opens at nine.")
    response = "The clinic opens at ten."
    assert nearest(response, "ten", one, two) == nearest(response, "ten", two, one) is not None


@pytest.mark.parametrize("citation", ["(passage 2)", "[2]", "(Source 2)"])
def test_the_cited_passage_is_preferred(citation):
    one, two = (Passage(f"Clinic {name} opens at nine on Monday.", name) for name in ("north", "south"))
    response = f"The clinic opens at ten on Monday. {citation}"
    first = find_evidence(response, 20, 23, [one, two])
    assert first is not None
    assert first["passage_id"] == "south"


def test_a_prompts_instructions_and_question_are_not_evidence():
    question = "In which year was the Harbour Bridge opened?"
    (message,) = grounded_messages(question, [BRIDGE, CHEESE])
    prompt = Passage(message["content"])
    response = "Based on the passages, the Harbour Bridge was opened in the year 1889."
    assert nearest(response, "1889", prompt) == "It was opened in 1931 by the mayor."
    other = (
        "Briefly answer the following question:\nwhen was the harbour bridge opened\nBear in mind that your response "
    )
    other += f"should be strictly based on the following passages:\npassage 1:{BRIDGE.text}\n\noutput:"
    assert nearest(response, "1889", Passage(other)) == "It was opened in 1931 by the mayor."


def test_what_belongs_to_a_passage_with_an_id_is_evidence_even_as_a_question():
    asked = Passage("When was the Harbour Bridge opened?", id="faq")
    assert nearest("The Harbour Bridge was opened in 1889.", "1889", asked) == asked.text


def test_a_long_passage_gives_a_short_text():
    filler = "then they went on and on along the road " * 200
    passage = Passage(f"{filler} the tower is 87 metres high {filler}")
    found = find_evidence("The tower is 90 metres high.", 13, 22, [passage])
    assert found is not None
    assert "tower is 87 metres" in found["text"]
    assert len(found["text"].split()) <= 40


def test_other_scripts_and_offsets_in_code_points():
    passage = Passage("🏴🏴 Vorwort. Die Brücke wurde 1931 eröffnet. Der Turm ist 87 m hoch.", id="ä")
    found = find_evidence("🏴 Die Brücke wurde 1889 eröffnet.", 19, 23, [passage])
    assert found is not None
    assert passage.text[found["start"] : found["end"]] == found["text"] == "Die Brücke wurde 1931 eröffnet."
    japanese = Passage("猫は好きです。橋は1931年に開通した。")
    assert nearest("橋は1889年に開通した。", "1889", japanese) == "橋は1931年に開通した。"


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (3, 2), (0, 100)])
def test_a_span_outside_the_response_is_refused(start, end):
    with pytest.raises(InputError, match="span"):
        find_evidence("It opened.", start, end, [BRIDGE])


def test_a_long_answer_and_many_passages_stay_cheap():
    import time

    passages = [Passage(f"{BRIDGE.text} Section {i} adds detail {i * 7}.", id=str(i)) for i in range(500)]
    response = "The Harbour Bridge opened in 1889. " * 2000
    start = time.process_time()
    index = EvidenceIndex(passages)  # 18,000 words
    assert index.find(response, 35_029, 35_033) is not None
    assert time.process_time() - start < 1  # about 0.06 s: ample room for a busy machine
