from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.engines.base import Asked
from groundwire.engines.fake import FakeTokenizer
from groundwire.focus import MOST_SENTENCES, Focus, FocusIndex, Ranges, alike
from groundwire.prompts import Rendered, grounded_messages, rendered, tokenize_response
from groundwire.types import Message, Passage

TOKENIZER = FakeTokenizer()
PASSAGES = [
    Passage("The tower was built in 1889. It is 330 metres tall. Tickets cost 12 euros."),
    Passage("The lighthouse at Skarne was built in 1902. It has two keepers, Mara and Jon."),
]


def shown(messages: list[Message], answer: str, sentences: int) -> list[str]:
    """What of the prompt each run of an answer's tokens sees."""
    prompt = rendered(TOKENIZER, messages)
    tokens = tokenize_response(TOKENIZER, answer)
    focus = FocusIndex(prompt).of(answer, tokens, sentences)
    assert focus.ends[-1] == len(tokens)
    return ["|".join(TOKENIZER.decode(prompt.ids[a:b]) for a, b in seen(focus, run, prompt)) for run in focus.shown]


def seen(focus: Focus, shown: Ranges | None, prompt: Rendered) -> Ranges:
    """What a run of tokens sees, ascending."""
    if shown is None:
        return ((0, len(prompt)),)
    found = tuple(sorted((*focus.frame, *shown)))
    assert all(a < b for a, b in found)
    assert all(left[1] <= right[0] for left, right in pairwise(found))
    return found


def asked(question: str = "How tall is the tower?") -> list[Message]:
    return grounded_messages(question, PASSAGES)


def test_each_sentence_sees_what_is_nearest_to_it_and_the_question() -> None:
    tower, keepers = shown(asked(), "The tower is 330 metres tall. The lighthouse has three keepers.", 1)
    assert "330 metres" in tower
    assert "two keepers" in keepers
    for hidden in ("1889", "12 euros", "1902", "two keepers"):
        assert hidden not in tower
    for hidden in ("1889", "330 metres", "12 euros", "1902"):
        assert hidden not in keepers
    for text in (tower, keepers):
        assert text.startswith("user: Answer the question using only the passages below.")
        assert text.endswith("Question: How tall is the tower?\nassistant:")
        assert "Passage 1:" in text
        assert "Passage 2:" in text


@pytest.mark.parametrize(("sentences", "expected"), [(1, ["1902"]), (2, ["1889", "1902"]), (9, ["1889", "1902"])])
def test_more_sentences_show_more_as_far_as_they_share_a_word(sentences: int, expected: list[str]) -> None:
    (text,) = shown(asked(), "The lighthouse was built in 1889 at Skarne.", sentences)
    assert [fact for fact in ("1889", "330 metres", "12 euros", "1902") if fact in text] == expected


def test_all_is_shown_where_there_is_no_more_than_that() -> None:
    prompt = rendered(TOKENIZER, asked())
    answer = "The tower, built in 1889, is 330 metres tall, tickets cost 12 euros, and Skarne has keepers."
    focus = FocusIndex(prompt).of(answer, tokenize_response(TOKENIZER, answer), 5)
    assert sum(b - a for a, b in seen(focus, focus.shown[0], prompt)) == len(prompt)


def test_a_sentence_that_shares_no_word_sees_everything() -> None:
    prompt = rendered(TOKENIZER, asked())
    answer = "Gladly! The tower is 330 metres tall."
    focus = FocusIndex(prompt).of(answer, tokenize_response(TOKENIZER, answer), 1)
    assert focus.shown[0] is None
    assert focus.shown[1] is not None


def test_what_the_system_or_the_assistant_said_is_always_seen() -> None:
    messages: list[Message] = [
        {"role": "system", "content": "You know the tower. The tower has red doors."},
        {"role": "user", "content": "The tower was built in 1889. The tower is blue. Is it?"},
        {"role": "assistant", "content": "The tower has nine floors. It leans."},
        {"role": "user", "content": "And who paid for the tower?"},
    ]
    (text,) = shown(messages, "The tower was built in 1890.", 1)
    for said in ("red doors", "nine floors", "It leans", "1889", "who paid"):
        assert said in text
    assert "blue" not in text


def test_a_template_that_strips_contents_hides_the_same() -> None:
    padded = asked()
    padded[0]["content"] = f"\n  {padded[0]['content']} \n"
    (text,) = shown(padded, "The tower is 330 metres tall.", 1)
    assert "330 metres" in text
    assert "12 euros" not in text


def test_an_answer_without_tokens_has_an_empty_focus() -> None:
    focus = FocusIndex(rendered(TOKENIZER, asked())).of("", [], 2)
    assert (focus.ends, focus.shown) == ((), ())


def test_an_answer_of_very_many_sentences_sees_everything() -> None:
    prompt, answer = rendered(TOKENIZER, asked()), "The tower is tall.\n" * (MOST_SENTENCES + 1)
    tokens = tokenize_response(TOKENIZER, answer)
    focus = FocusIndex(prompt).of(answer, tokens, 1)
    assert (focus.ends, focus.shown) == ((len(tokens),), (None,))


def test_a_token_that_touches_a_hidden_and_a_shown_sentence_is_seen() -> None:
    """Qwen's and Llama's tokenizers make one token of ".Nobody"."""
    text = "Tickets are free for all.Nobody under 12 pays. It rains. How old?"
    offsets = tuple(m.span() for m in re.finditer(r"\.Nobody|\s*\w+|\S", text))
    prompt = Rendered(tuple(range(len(offsets))), text, offsets, ((0, len(text)),))
    answer = "Nobody under 12 pays."
    focus = FocusIndex(prompt).of(answer, tokenize_response(TOKENIZER, answer), 1)
    spelt = [text[slice(*offsets[i])] for a, b in seen(focus, focus.shown[0], prompt) for i in range(a, b)]
    assert "".join(spelt) == ".Nobody under 12 pays. How old?"


def test_what_is_in_no_users_message_is_seen() -> None:
    messages: list[Message] = [{"role": "system", "content": "The tower was built in 1889. It is blue."}]
    (text,) = shown(messages, "The tower was built in 1890.", 1)
    assert "1889" in text
    assert "blue" in text


def test_prompts_of_the_same_tokens_with_other_contents_are_two() -> None:
    """A text may spell the template's own marks."""
    prompt = rendered(TOKENIZER, asked())
    assert prompt == replace(prompt, text="other", offsets=())
    assert prompt != replace(prompt, contents=())


@given(st.text(max_size=200), st.text(max_size=120), st.integers(1, 3))
def test_any_text_gives_ranges_within_the_prompt(passage: str, answer: str, sentences: int) -> None:
    prompt = rendered(TOKENIZER, [{"role": "user", "content": f"Passage 1: {passage}\n\nQuestion: Who?"}])
    tokens = tokenize_response(TOKENIZER, answer)
    focus = FocusIndex(prompt).of(answer, tokens, sentences)
    assert list(focus.ends) == sorted(set(focus.ends))
    assert (focus.ends[-1] if tokens else 0) == len(tokens)
    for run in focus.shown:
        ranges = seen(focus, run, prompt)
        assert ranges[0][0] >= 0
        assert ranges[-1][1] == len(prompt)  # the question stays


def test_focuses_agree_up_to_the_first_token_that_sees_something_else() -> None:
    a, b = ((0, 4),), ((0, 2), (3, 4))
    one = Focus((), (3, 6, 9), (a, b, a))
    assert one.alike(one, 7) == 7
    assert one.alike(Focus((), (6, 9), (a, a)), 9) == 3
    assert one.alike(Focus((), (2, 3, 5, 9), (a, a, b, a)), 9) == 5
    assert one.alike(Focus((), (9,), (b,)), 9) == 0
    assert one.alike(Focus((), (3, 9), (a, b)), 6) == 6
    assert one.alike(Focus(((5, 6),), (3, 6, 9), (a, b, a)), 9) == 0
    whole = Focus((), (9,), (None,))
    assert whole.alike(Focus(((5, 6),), (4, 9), (None, a)), 9) == 4
    assert alike(None, None, 9) == 9
    assert alike(one, None, 9) == alike(None, one, 9) == 0


def test_what_is_asked_holds_a_focus_by_its_tokens() -> None:
    prompt, answers = rendered(TOKENIZER, asked()), ["The tower is 330 metres tall.", "It has two keepers."]
    pairs = [(answer, tokenize_response(TOKENIZER, answer)) for answer in answers]
    assert Asked.of(prompt, pairs, 0).focus == {}
    made = Asked.of(prompt, pairs, 1, known="kept")
    assert made.known == "kept"
    assert made.prompt == prompt.ids
    index = FocusIndex(prompt)
    for (text, tokens), ids in zip(pairs, made.responses, strict=True):
        assert made.focus[tuple(ids)] == index.of(text, tokens, 1)
