"""Pairs differ by their spans alone; every kind occurs; nothing is edited where a phrase means something else."""

from __future__ import annotations

import random
import re
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundwire.sentences import sentences
from groundwire.training.making.edits import FAITHFUL, MAX_PASSAGES, UNFAITHFUL, Made, _Pool, answers

BRIDGE = (
    "The Tidewater Bridge was opened by Queen Maud on 14 May 1931. It is 642 metres long and carries two lanes of "
    "road. However, all members of the council had rejected the first plan in 1926 (it cost £84,000). The northern "
    "tower is higher than the southern tower, which was finished in the winter. Engineers from Harlow Steel worked at "
    "night before the opening, and the company did not receive any payment until March. About 40% of the stone came "
    "from Kestrel Quarry. Most of the workers lived in Port Ellery. The ferry is no longer used by the public."
)
MUSEUM = (
    "The museum in Arrowmouth holds 1,250 objects, and its oldest ship was built by Anders Holt in 1874. In 1990, the "
    "museum received an award from the Holt Foundation. Visitors must not touch the models. Entry is free for children "
    "under 12, and at least 3 guides work there on Sunday. Captain Dorothy Vance sold the lighthouse to Samuel Reed "
    "for £19,500 after the war. The number of visitors increased by 25% in 2004. Dorothy Vance moved from Brackwater "
    "to Dunfell in June 1952. Both the harbour and the lighthouse are open to visitors with a ticket. The curator, "
    "Ruth Amsel, said that the archive has never been closed. Samuel Reed was succeeded by Ruth Amsel in 1961."
)
TEXTS = st.text(
    st.sampled_from("aAthe BofI1920 .,!?\n'\"()-%£é東’–\t\u2028\x1c") | st.characters(codec="utf-8"), max_size=300
)
PIECES = (
    "The A an Bridge London was is not all some In 1990, on 14 May 1931 Anna (born) before first 5% $3 12,000 3.5 km "
    "no longer can't didn’t win more than both and neither nor of Maria Holt said. rose. It He which, opened Tom's X. "
    "– at least up to the most 19th 1920s U.S. cannot without"
)
WORDS = st.lists(st.sampled_from(re.split(" ", PIECES)), min_size=5, max_size=40).map(" ".join)


def pairs(passages: list[str], seed: int = 0, count: int = 20) -> list[tuple[Made, Made]]:
    return answers(passages, random.Random(seed), count)


def outside(made: Made) -> list[str]:
    """What lies before, between and after the spans."""
    bounds = [0, *(bound for span in made.spans for bound in span), len(made.text)]
    return [made.text[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2)]


def check(passages: list[str], found: list[tuple[Made, Made]]) -> None:
    whole = [" ".join(text[s.start : s.end].casefold().split()) for text in passages for s in sentences(text)]
    for right, wrong in found:
        assert (right.label, right.spans, wrong.label) == (0, (), 1)
        assert right.kind in FAITHFUL
        assert wrong.kind in UNFAITHFUL
        assert wrong.spans
        assert right.text != wrong.text
        assert " ".join(wrong.text.casefold().split()) not in whole
        end = 0
        for start, stop in wrong.spans:
            assert end <= start < stop <= len(wrong.text)
            assert wrong.text[start:stop] == wrong.text[start:stop].strip()
            end = stop
        kept = outside(wrong)
        assert re.fullmatch("(.+?)".join(map(re.escape, kept)), right.text, re.DOTALL)
        if len(kept) == 2:
            start, stop = wrong.spans[0]
            was = right.text[start : len(right.text) - (len(wrong.text) - stop)]
            assert was
            assert was != wrong.text[start:stop]
            assert was[0].isupper() <= wrong.text[start].isupper() or was[0] == "I"


@given(st.lists(TEXTS, max_size=4), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_odd_text_gives_sound_pairs_or_none(passages, seed):
    check(passages, pairs(passages, seed, 5))


@given(st.lists(WORDS, min_size=1, max_size=5), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_words_in_any_order_give_sound_pairs(passages, seed):
    passages = [f"The bridge is {passage}." for passage in passages]
    check(passages, pairs(passages, seed, 5))


@pytest.mark.parametrize(
    "passage",
    [
        "",
        " ",
        "word",
        "word.",
        "Yes!",
        "\n\n",
        "A. B. C. D. E.",
        "東京は日本の首都です。",
        "\ud800 is not a letter at all.",
    ],
)
def test_what_holds_no_statement_gives_nothing(passage):
    assert pairs([passage]) == []
    assert pairs([]) == []
    assert pairs([BRIDGE], count=0) == pairs([BRIDGE], count=-1) == []


def test_pairs_of_real_statements_are_sound_and_there_are_as_many_as_asked_for():
    for seed in range(10):
        found = pairs([BRIDGE, MUSEUM], seed)
        assert len(found) == 20
        check([BRIDGE, MUSEUM], found)


def test_the_same_generator_gives_the_same_pairs_and_another_gives_others():
    assert pairs([BRIDGE, MUSEUM]) == pairs([BRIDGE, MUSEUM])
    assert pairs([BRIDGE, MUSEUM]) != pairs([BRIDGE, MUSEUM], seed=1)


def test_every_kind_occurs():
    found = [pair for seed in range(25) for pair in pairs([BRIDGE, MUSEUM], seed)]
    assert {right.kind for right, _ in found} == set(FAITHFUL)
    assert {wrong.kind for _, wrong in found} == set(UNFAITHFUL)
    assert max(Counter(wrong.kind for _, wrong in found).values()) < len(found) / 2


def test_a_passage_alone_gives_nothing_mixed():
    assert "mixed" not in {wrong.kind for seed in range(10) for _, wrong in pairs([BRIDGE], seed)}


@pytest.fixture
def edits(monkeypatch):
    """What stands in the spans of all edits of one kind that are found in a sentence, however rare its words are."""
    monkeypatch.setattr(_Pool, "luck", lambda pool, place, rng: 0.0)
    monkeypatch.setattr("groundwire.training.making.edits._NEGATED", 1000)

    def edits(sentence: str, kind: str, *others: str) -> set[str]:
        found = [wrong for seed in range(8) for _, wrong in pairs([sentence, *others], seed, 3)]
        return {wrong.text[start:stop] for wrong in found if wrong.kind == kind for start, stop in wrong.spans}

    return edits


@pytest.mark.parametrize(
    ("sentence", "kind", "expected"),
    [
        ("The shop did not open in the town.", "negation", "opened"),
        ("The shop does not include the old cellar.", "negation", "includes"),
        ("The door is no longer open to visitors.", "negation", "is still"),
        ("Visitors cannot enter the old cellar.", "negation", "can"),
        ("The road wasn't open to visitors then.", "negation", "was"),
        ("The shop was open to the whole town.", "negation", "was not"),
        ("Visitors can enter the old cellar.", "negation", "cannot"),
        ("Anna Holt moved to the old town.", "negation", "did not move"),
        ("The price also includes the old cellar.", "negation", "does not include"),
        ("Prices increased in the whole country.", "trend", "decreased"),
        ("The town lies on the northern bank.", "trend", "southern"),
        ("The club was an amateur side for years.", "trend", "a professional"),
        ("Workers get at least 20 days of leave.", "quantifier", "fewer than"),
        ("All members of the club may vote.", "quantifier", "No"),
        ("Most of the members may vote today.", "quantifier", "None of"),
        ("The house was sold before the war.", "order", "after"),
        ("Ruth was the last woman who worked there.", "order", "first"),
        ("The shop was closed in the winter.", "date", "summer"),
        ("The shop was closed on Monday and reopened.", "date", "Friday"),
        ("Dunfell was sold by Anna Holt to Samuel Reed.", "roles", "Samuel Reed"),
    ],
)
def test_an_edit_that_must_be_possible(edits, sentence, kind, expected):
    found = edits(sentence, kind)
    assert expected in found


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("The ship was named after a queen.", "order"),
        ("The match was won by over three goals.", "trend"),
        ("The house has no longer lease than this.", "trend"),
        ("The album was the best known of them.", "trend"),
        ("The team goes to a high school there.", "trend"),
        ("Some workers were in the mine.", "negation"),
        ("The plan was not only bold but cheap.", "negation"),
        ("If it is wet, the match is stopped.", "negation"),
        ("The most popular song was by them.", "quantifier"),
        ("The team won 3–2 in the old stadium.", "number"),
        ("The wreck is at 51°51′26″N in the sea.", "number"),
    ],
)
def test_an_edit_that_would_be_wrong_or_true_is_not_made(edits, sentence, kind):
    assert edits(sentence, kind) == set()


def test_a_number_keeps_its_look_and_years_keep_their_order():
    text = "The firm lasted from 1901 to 1904 and paid £84,000 to 12% of its 3.5 million staff."
    for seed in range(20):
        for right, wrong in pairs([text], seed, 4):
            start, stop = wrong.spans[0]
            new, was = wrong.text[start:stop], right.text[start : len(right.text) - len(wrong.text) + stop]
            assert re.sub(r"\d", "0", new) == re.sub(r"\d", "0", was) or (was == "12" and len(new) <= 2), (was, new)
            assert len(years := re.findall(r"\b1[89]\d\d\b", wrong.text)) == 2
            assert years[0] < years[1]


def test_a_name_is_exchanged_for_one_of_the_same_sort(edits):
    others = "The old teacher left Norwood University in May. The news reached Ruth Amsel in Dunfell by night."
    assert edits("The prize went to a student of Harlow University.", "name", others) == {
        "Norwood University",
        "Harlow University",
    }


def test_a_name_is_not_exchanged_for_another_form_of_it(edits):
    text = "The judge was told by Anders Holt in the court. The friend said that the car of Anders was in the wood."
    assert edits(text, "name") == set()


def test_a_sentence_that_leans_on_another_comes_only_behind_it():
    text = "The bridge was opened in 1931. It is 642 metres long and was built in 1926. The ferry was closed in 1930."
    for seed in range(12):
        for right, _ in pairs([text], seed, 6):
            if "642 metres" in right.text:
                assert re.search(r"1931[^\n]{0,6}(?:\n. )?[Ii]t is 642", right.text), right.text


def test_a_mistake_does_not_spread_to_what_leans_on_it():
    text = "The lighthouse was sold by Anders Holt in Dunfell. He lived in the old town and was rich for years."
    for seed in range(12):
        for right, wrong in pairs([text, MUSEUM], seed):
            if wrong.kind in ("name", "roles", "mixed") and "e lived in the old town" in right.text:
                assert "sold by Anders Holt in Dunfell" in wrong.text


def test_articles_agree():
    text = "The team was an amateur side of the town. The firm is an unsuccessful shop in the town."
    found = [wrong.text for seed in range(10) for _, wrong in pairs([text], seed)]
    assert not any(re.search(r"\ban (?:prof|succ)|\ba (?:amateur|unsucc)", wrong) for wrong in found)
    assert any("a professional side" in wrong for wrong in found)


def test_no_word_of_a_negation_tells_the_label():
    """Over many passages negations are put in about as often as they are taken out."""
    draw = random.Random(7)
    shops = ("bakery", "library", "garage", "station", "museum", "harbour", "theatre", "garden", "market", "chapel")
    more = less = 0
    for _ in range(40):
        lines = []
        for shop in draw.sample(shops, 10):
            negation = "not " if draw.random() < 0.06 else ""
            lines.append(f"The {shop} of the town was {negation}open to visitors in {draw.randrange(1900, 2000)}.")
        for right, wrong in answers([" ".join(lines)], draw, 6):
            more += wrong.text.count(" not ") > right.text.count(" not ")
            less += wrong.text.count(" not ") < right.text.count(" not ")
    assert 0.3 < (more + 1) / (less + 1) < 3


@pytest.mark.parametrize("text", [BRIDGE + " ", "The bridge (of (", "1,000,", "which, U.S. Navy of de la In 1990, "])
def test_it_reads_a_bounded_part_of_a_long_text_in_linear_time(text):
    start = time.process_time()
    pairs([text * (400_000 // len(text))] * 20, count=3)
    assert time.process_time() - start < 20


def test_passages_beyond_the_bound_are_not_read():
    assert pairs([""] * MAX_PASSAGES + [BRIDGE]) == []
