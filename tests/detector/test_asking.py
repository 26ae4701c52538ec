"""What a user's words ask for."""

from __future__ import annotations

import time

import pytest

from groundwire.asking import (
    courtesy,
    elsewhere,
    grounded,
    opinion,
    question,
    question_in,
    refers,
    sentence_ends,
    spoken,
    summary,
)

MATERIAL = "The lighthouse was finished in 1889."


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hi",
        "Hello there!",
        "Thanks!",
        "Thank you so much for your help",
        "ok, great 👍",
        "That was very helpful, thanks.",
        "How are you today?",
        "Good morning",
        "Perfect. Bye!",
        "thanks, that’s great",
        "Have a nice day :)",
    ],
)
def test_courtesies(text: str) -> None:
    assert courtesy(text)


@pytest.mark.parametrize(
    "text",
    [
        "yes please",
        "How is it?",
        "no",
        "Thanks. How high is it?",
        "What was that for?",
        "good question: why?",
        "hi " * 100,
        "What is a good day trip?",
        "this",
    ],
)
def test_no_courtesies(text: str) -> None:
    assert not courtesy(text)


@pytest.mark.parametrize(
    "text",
    [
        "How high is it?",
        "And who lived there before them?",
        "Why?",
        "Tell me more.",
        "yes please",
        "When was the lighthouse opened?",
        "Is the text older?",
    ],
)
def test_a_follow_up_refers(text: str) -> None:
    assert refers(text, MATERIAL)


@pytest.mark.parametrize("text", ["What is the capital of Peru?", "Do you like music?", "Name three rivers.", ""])
def test_another_subject_does_not(text: str) -> None:
    assert not refers(text, MATERIAL)


@pytest.mark.parametrize(
    "text",
    [
        "Write a Python function that sorts a list",
        "Translate this to German",
        "Can you write me an email to my landlord?",
        "Please rewrite the second sentence.",
        "Fix the grammar",
        "Reply to this message for me",
        "Make a poem of it",
    ],
)
def test_requests_for_something_else(text: str) -> None:
    assert elsewhere(text)


@pytest.mark.parametrize(
    "text",
    [
        "Who wrote it?",
        "Write a summary for my blog",
        "What happens in this story?",
        "Explain it to me.",
        "Who will respond?",
    ],
)
def test_requests_about_a_text(text: str) -> None:
    assert not elsewhere(text)


@pytest.mark.parametrize(
    "text",
    [
        "Answer the question using only the passages below.",
        "Use the following pieces of retrieved context to answer.",
        "Given the context information and not prior knowledge, answer the query.",
        "strictly based on the following three passages:",
        "According to the article above, who?",
        "Rely only on the provided documents.",
        "based only on the provided structured data",
    ],
)
def test_grounded(text: str) -> None:
    assert grounded(text)


@pytest.mark.parametrize(
    "text",
    [
        "in the context of machine learning",
        "Given the rise of streaming",
        "from Paris to London",
        "use the function below",
        "What do these words mean?",
        "Where can I find documents?",
    ],
)
def test_not_grounded(text: str) -> None:
    assert not grounded(text)


def test_questions_and_summaries() -> None:
    assert question("Query: opening hours")
    assert question("opening hours?")
    assert summary("TL;DR")
    assert question("TL;DR")
    assert not question("opening hours")
    assert not summary("a sum of money")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Context: a\nQuestion: b?\nAnswer:", " b?\n"),
        ("Q: a\nA: b\nQ: c", " c"),
        ("## Question\nwho?", "\nwho?"),
        ("who?", "who?"),
    ],
)
def test_the_question_behind_its_label(text: str, asked: str) -> None:
    assert question_in(text) == asked


@pytest.mark.parametrize(
    "unit", ["good ", "hi", " ", "thanks so ", "why ", "the ", "use ", "\n", "write", "Question:\n", "-"]
)
def test_time_grows_with_the_text_and_no_faster(unit: str) -> None:
    text = unit * (400_000 // len(unit))
    began = time.perf_counter()
    for rule in (courtesy, elsewhere, grounded, opinion, question, question_in, spoken, lambda t: refers(t, t)):
        rule(text)
        rule(text[:199])
    assert time.perf_counter() - began < 10  # a quadratic pattern takes minutes


def test_advice_is_no_question_about_a_text() -> None:
    assert opinion("How should I respond to this?")
    assert opinion("What do you think?")
    assert not opinion("What should be done first?")


@pytest.mark.parametrize(
    "text",
    [
        "I have two weeks.",
        "my wife and I are going to Italy",
        "It rains. I'm cold.",
        "You are a wizard.",
        "Act as a guide.",
    ],
)
def test_what_a_user_says_of_themselves_or_to_the_model(text: str) -> None:
    assert spoken(text)


@pytest.mark.parametrize("text", [MATERIAL, "You can send it back.", 'He said: "I know." They left. It rained.', ""])
def test_what_a_text_says(text: str) -> None:
    assert not spoken(text)
    assert sentence_ends("One. Two! Three? 3.5") == 3
