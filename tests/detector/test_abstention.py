"""What counts as an answer that claims nothing, and what must not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.abstention import MAX_CHARACTERS, abstained

ABSTENTIONS = [
    "Unable to answer based on given passages.",
    " Of course! Here's my answer:\n\nUnable to answer based on given content. The passage does not provide enough "
    "information to explain how Dyrnwyn lost its power.",
    "Unable to answer based on given passages. The provided passages do not mention the location of the headquarters.",
    "The passages do not say.",
    "The given passages do not mention this.",
    "None of the passages mention the price.",
    "Unfortunately, the documents don't provide enough details to answer this.",
    "I am unable to answer because the passages do not contain any information about it. Please provide more context.",
    "I do not have enough information to answer your question. Let me know if you have any other questions!",
    "I'm sorry, but I cannot assist with that.",
    "I’m sorry but I can’t answer that question based on the given context.",
    "As an AI language model, I cannot answer this question.",
    "I don't know.",
    "Based on the information provided, it is not possible to determine the price.",
    "The average cost cannot be determined from the passages.",
    "The side effects are not mentioned in the given passages.",
    "There is no information about this in the passages.",
    "It is unclear from the text whether he was rich.",
]

CLAIMS = [
    "",
    "Paris.",
    "Sure! Thanks.",
    "Yes. I cannot answer.",
    # answers and abstains, in either order
    "The price is $5. Unable to answer based on given passages.",
    "Unable to answer based on given passages. The price is $5.",
    "The passages do not say, but it is Paris.",
    "The passages do not say, it is Paris.",
    "The passages do not mention the price: $5",
    "Unable to answer (it is Paris).",
    "I cannot answer as Paris is the capital.",
    "I don't know and Paris is my guess.",
    # a claim inside the abstention
    "The passages do not mention that he died in 1990.",
    "The passages do not mention his wife, who died in 1990.",
    "The passages only mention dogs.",
    "The king was rich in 1990, which is not mentioned in the passages.",
    "The bank is in Rome and the street is not mentioned in the passages.",
    # the negation is the claim
    "Breakfast is not included.",
    "There is no cure for it.",
    "They did not say.",
    "It is unable to provide oxygen to the cells.",
    "I cannot provide refunds.",
    "We cannot provide refunds after 30 days.",
]


@pytest.mark.parametrize("response", ABSTENTIONS)
def test_an_answer_that_only_abstains(response: str) -> None:
    assert abstained(response)


@pytest.mark.parametrize("response", CLAIMS)
def test_an_answer_that_claims_something(response: str) -> None:
    assert not abstained(response)


@pytest.mark.parametrize("claim", ["The bridge opened in 1889.", "It costs five dollars.", "Paris!", "It is Rome"])
@pytest.mark.parametrize("abstention", ABSTENTIONS)
def test_a_claim_before_or_after_an_abstention_is_checked(abstention: str, claim: str) -> None:
    assert not abstained(f"{claim} {abstention}".replace("Rome ", "Rome. "))
    assert not abstained(f"{abstention} {claim}")


def test_a_long_answer_is_never_an_abstention() -> None:
    sentence = "The passages do not say. "
    fits = MAX_CHARACTERS // len(sentence)
    assert abstained(sentence * fits)
    assert not abstained(sentence * (fits + 1))


@given(st.text(), st.sampled_from(ABSTENTIONS))
def test_case_and_white_space_around_do_not_matter(padding: str, abstention: str) -> None:
    white = "".join(character for character in padding if character.isspace())
    assert abstained(white + abstention.upper() + white)


@given(st.text(st.characters(categories=["L", "N"]), min_size=1), st.sampled_from(ABSTENTIONS))
def test_a_sentence_of_any_other_words_is_a_claim(word: str, abstention: str) -> None:
    assert not abstained(f"{abstention} {word}x.")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "fired", "unfaithful"),
    [("ragtruth-qa", 18, 0), ("dolly", 7, 5), ("refchecker", 1, 1), ("summedits", 0, 0)],
)
def test_how_often_the_rule_fires_on_labelled_data(data_folder: Path, name: str, fired: int, unfaithful: int) -> None:
    """Dolly's and RefChecker's labels call an abstention wrong where the passages do answer; none of them claims."""
    with (data_folder / f"{name}.jsonl").open(encoding="utf-8") as file:
        labels = [row["label"] for row in map(json.loads, file) if abstained(row["response"])]
    assert (len(labels), sum(labels)) == (fired, unfaithful)
