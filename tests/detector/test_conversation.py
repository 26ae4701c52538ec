"""What an answer must stay with: whole conversations."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.conversation import Found, found_passages
from groundwire.prompts import grounded_messages
from groundwire.types import Passage

LIGHTHOUSE = "The lighthouse was finished in 1889 by a builder from Lisbon."
KEEPER = "It is 41 metres high, the keeper's log says."
WEATHER = '{"place": "northern cape", "celsius": 21, "wind": "strong"}'
QUESTION = "Who built the lighthouse?"
RAG = f"Context:\n{LIGHTHOUSE}\n\nQuestion: {QUESTION}"
RETRIEVAL = f"Use the following pieces of retrieved context to answer the question.\n\n{LIGHTHOUSE}"


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str | None) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def tool(text: str, call: str | None = None) -> dict[str, Any]:
    return {"role": "tool", "content": text} | ({"tool_call_id": call} if call else {})


def texts(found: Found) -> list[str]:
    return [passage.text for passage in found.passages]


# 1. the request's own


def test_given_passages_that_stand_in_the_messages_are_evidence_only() -> None:
    messages = [system("Be kind."), user(RAG)]
    found = found_passages(messages, [Passage(f"\n{LIGHTHOUSE} ", "7")])
    assert found == Found((Passage(f"\n{LIGHTHOUSE} ", "7"),), None, tuple(messages))


def test_given_passages_that_do_not_are_put_before_the_last_question() -> None:
    messages = [system("Be kind."), user("Hi!"), assistant("Hello."), user(QUESTION)]
    passages = [Passage(LIGHTHOUSE, "7"), Passage(KEEPER)]
    found = found_passages(messages, passages)
    assert found.passages == tuple(passages)
    assert found.messages == (*messages[:3], *grounded_messages(QUESTION, passages))
    assert messages[3] == user(QUESTION)


def test_only_those_that_are_missing_are_put_there() -> None:
    found = found_passages([user(RAG)], [Passage(LIGHTHOUSE), Passage(KEEPER)])
    assert found.messages == tuple(grounded_messages(RAG, [Passage(KEEPER)]))
    assert texts(found) == [LIGHTHOUSE, KEEPER]


def test_given_passages_go_where_the_question_is_though_tools_answered_since() -> None:
    messages = [user(QUESTION), assistant(None), tool(WEATHER)]
    found = found_passages(messages, [Passage(LIGHTHOUSE)])
    assert texts(found) == [LIGHTHOUSE]
    assert found.messages == (*grounded_messages(QUESTION, [Passage(LIGHTHOUSE)]), assistant(""), tool(WEATHER))


def test_without_a_user_they_become_the_users_message() -> None:
    found = found_passages([system("Say what there is.")], [Passage(LIGHTHOUSE)])
    assert found.messages == (system("Say what there is."), *grounded_messages("", [Passage(LIGHTHOUSE)]))


@pytest.mark.parametrize("none", [[], [Passage("")], [Passage(" \n")]])
def test_given_none_is_given_none(none: list[Passage]) -> None:
    """The caller's retriever found nothing: what else stands in the chat is not what the answer must stay with."""
    assert found_passages([user(RAG)], none) == Found((), "no_passages", (user(RAG),))


# 2. tools


def test_results_of_tools_since_the_last_question() -> None:
    messages = [
        user("What is the weather like at the lighthouse, and who built it?"),
        assistant(None),
        tool(WEATHER, "call_1"),
        tool(LIGHTHOUSE, "call_2"),
        assistant(None),
        tool(" "),
        tool(KEEPER),
    ]
    found = found_passages(messages)
    assert found.passages == (Passage(WEATHER, "call_1"), Passage(LIGHTHOUSE, "call_2"), Passage(KEEPER))
    assert found.reason is None


def test_they_come_before_what_the_user_pasted_and_whatever_was_asked() -> None:
    assert texts(found_passages([user(RAG), assistant(None), tool(WEATHER)])) == [WEATHER]
    assert texts(found_passages([user("Thanks!"), assistant(None), tool(WEATHER)])) == [WEATHER]
    assert texts(found_passages([tool(WEATHER)])) == [WEATHER]


def test_results_of_the_old_function_role_count() -> None:
    assert texts(found_passages([user("Weather?"), {"role": "function", "name": "w", "content": WEATHER}])) == [WEATHER]


@pytest.mark.parametrize("said", ["How high is it?", "And is the wind strong there?", "Why?", "Tell me more."])
def test_a_follow_up_stays_with_the_results_of_the_turn_before(said: str) -> None:
    messages = [user("Weather at the cape?"), assistant(None), tool(WEATHER), assistant("21 degrees."), user(said)]
    assert texts(found_passages(messages)) == [WEATHER]


@pytest.mark.parametrize(
    "said",
    [
        "Thanks, that was helpful!",
        "What is the capital of Peru?",
        "Write a Python function that prints it.",
        "Translate it.",
    ],
)
def test_what_is_no_follow_up_is_not_checked(said: str) -> None:
    before = [user("Weather at the cape?"), assistant(None), tool(WEATHER), assistant("21 degrees.")]
    assert found_passages([*before, user(said)]).reason == "no_passages"
    before = [user(RAG), assistant("A builder from Lisbon.")]
    assert found_passages([*before, user(said)]).reason == "no_passages"


def test_of_several_turns_the_latest_with_results_counts() -> None:
    messages = [
        user("Weather at the cape?"),
        assistant(None),
        tool(WEATHER),
        assistant("21 degrees."),
        user(QUESTION),
        assistant(None),
        tool(LIGHTHOUSE),
        assistant("A builder from Lisbon."),
        user("Thanks!"),
        assistant("You are welcome."),
        user("When did he finish it?"),
    ]
    assert texts(found_passages(messages)) == [LIGHTHOUSE]


# 3. the user's text


def test_passages_in_the_users_text() -> None:
    assert texts(found_passages([system("Be kind."), user(RAG)])) == [LIGHTHOUSE]
    assert texts(found_passages(grounded_messages(QUESTION, [Passage(LIGHTHOUSE), Passage(KEEPER)]))) == [
        LIGHTHOUSE,
        KEEPER,
    ]


def test_each_turn_has_its_own() -> None:
    again = f"Context:\n{KEEPER}\n\nQuestion: How high is it?"
    assert texts(found_passages([user(RAG), assistant("A builder."), user(again)])) == [KEEPER]


def test_a_follow_up_stays_with_the_passages_of_the_turn_before() -> None:
    assert texts(found_passages([user(RAG), assistant("A builder."), user("Where was he from?")])) == [LIGHTHOUSE]


def test_passages_in_a_message_of_their_own() -> None:
    assert texts(found_passages([user(f"Context:\n{LIGHTHOUSE}"), user(QUESTION)])) == [LIGHTHOUSE]


def test_small_talk_in_a_prompt_with_passages_is_not_checked() -> None:
    assert found_passages([user(RAG.replace(QUESTION, "Hi!"))]).reason == "no_passages"


# 4. a system message


def test_a_system_message_with_what_was_retrieved() -> None:
    assert texts(found_passages([system(RETRIEVAL), user("opening hours")])) == [LIGHTHOUSE]
    chat = [{"role": "developer", "content": RETRIEVAL}, user("Hi!"), assistant("Hello."), user(QUESTION)]
    assert texts(found_passages(chat)) == [LIGHTHOUSE]


def test_small_talk_under_such_a_system_message_is_not_checked() -> None:
    assert found_passages([system(RETRIEVAL), user("Thanks a lot!")]).reason == "no_passages"


# no passages


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [system("You are a helpful assistant.")],
        [user("Hi!")],
        [user("What is the capital of France?")],
        [user("Hi!"), assistant("Hello, how can I help?"), user("Tell me a joke about context windows.")],
        [user("Write a function that reverses a string."), assistant("def f(s): return s[::-1]"), user("Explain it.")],
        [assistant("How can I help?")],
        [user("What is it?"), assistant(LIGHTHOUSE), user("How do you know it?")],
        [user("")],
    ],
)
def test_a_chat_without_passages_is_not_checked(messages: list[dict[str, Any]]) -> None:
    assert found_passages(messages) == Found((), "no_passages", tuple(messages))


def test_a_content_that_is_no_string_counts_as_empty() -> None:
    found = found_passages(
        [user(QUESTION), {"role": "assistant"}, {"role": "tool", "content": None}, {"content": ["x"]}]
    )
    assert [message["content"] for message in found.messages] == [QUESTION, "", "", ""]
    assert found.reason == "no_passages"


# any strings

fragments = st.sampled_from(
    [
        RAG,
        RETRIEVAL,
        LIGHTHOUSE,
        WEATHER,
        QUESTION,
        "Context:\n",
        "<context>",
        "</context>",
        "-----\n",
        '"""',
        "```\n",
        "[1] ",
        "passage 2:",
        "\nQuestion: ",
        "\nAnswer:",
        "\n\n",
        "\n",
        " ",
        "using the passages below",
        "summarize this:",
        "Thanks!",
    ]
)
contents = st.one_of(st.text(), st.lists(st.one_of(fragments, st.text(max_size=20)), max_size=8).map("".join))
chats = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]), "content": contents}
    ),
    max_size=6,
)


@given(chats)
def test_whatever_is_found_stands_in_the_messages(messages: list[dict[str, Any]]) -> None:
    found = found_passages(messages)
    assert list(found.messages) == messages
    assert (found.reason is None) == bool(found.passages)
    for passage in found.passages:
        assert passage.text.strip()
        assert any(passage.text in message["content"] for message in messages)


@given(chats, st.lists(st.builds(Passage, contents, st.one_of(st.none(), st.text(max_size=3))), max_size=4))
def test_the_model_sees_every_given_passage(messages: list[dict[str, Any]], passages: list[Passage]) -> None:
    found = found_passages(messages, passages)
    assert found.passages == tuple(passage for passage in passages if passage.text.strip())
    assert (found.reason is None) == bool(found.passages)
    for passage in found.passages:
        assert any(passage.text.strip() in message["content"] for message in found.messages)
    assert len(found.messages) in (len(messages), len(messages) + 1)


def test_a_passage_does_not_stand_across_two_messages() -> None:
    messages = [{"role": "user", "content": "The bridge opened"}, {"role": "user", "content": "in 1931."}]
    for passage in ("The bridge opened in 1931.", "The bridge openedin 1931."):
        assert passage in found_passages(messages, [Passage(passage)]).messages[-1]["content"]


def test_many_passages_and_many_messages_take_no_time() -> None:
    messages = [{"role": "user", "content": "a"}] * 20_000
    start = perf_counter()
    found_passages(messages, [Passage(f"passage {i}") for i in range(1000)])
    assert perf_counter() - start < 5
