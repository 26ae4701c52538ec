"""LangChain's own agents and chains, with a scripted model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from groundwire import Guard
from groundwire.engines.fake import fake_detector

pytest.importorskip("langchain", reason="langchain is not installed")

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from groundwire.integrations.langchain import GroundwireMiddleware, checked

LIGHTHOUSE = "The lighthouse was built in 1889 by a builder from Lisbon."
QUESTION = "When was the lighthouse built?"
GOOD, BAD = "The lighthouse was built in 1889.", "It opened in 1931."


@tool
def search(query: str) -> str:
    """Look something up."""
    return LIGHTHOUSE


class Scripted(GenericFakeChatModel):
    """Says what it is told to say, and lets tools be bound to it."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def call(*calls: str) -> AIMessage:
    calls_ = [{"name": "search", "args": {"query": query}, "id": f"call_{i}"} for i, query in enumerate(calls)]
    return AIMessage("", tool_calls=calls_)


def agent(*said: AIMessage, **options: Any) -> Any:
    middleware = GroundwireMiddleware(Guard(fake_detector()))
    return create_agent(Scripted(messages=iter(said)), [search], middleware=[middleware], **options)


def verdict(state: dict[str, Any]) -> dict[str, Any]:
    return state["messages"][-1].response_metadata["hallucination"]


@pytest.mark.parametrize(("answer", "flagged"), [(GOOD, False), (BAD, True)])
def test_an_agents_answer_is_checked_against_its_tools(answer: str, flagged: bool) -> None:
    state = agent(call("lighthouse"), AIMessage(answer)).invoke({"messages": [("user", QUESTION)]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][-1].content == answer
    assert verdict(state)["flagged"] is flagged
    assert "hallucination" not in state["messages"][1].response_metadata
    if flagged:
        assert verdict(state)["spans"][0]["evidence"] is None or verdict(state)["spans"][0]["evidence"]["passage_id"]


def test_and_so_it_is_asynchronously() -> None:
    state = asyncio.run(agent(call("lighthouse"), AIMessage(BAD)).ainvoke({"messages": [("user", QUESTION)]}))
    assert verdict(state)["flagged"] is True


def test_the_other_metadata_stays() -> None:
    said = AIMessage(GOOD, response_metadata={"model_name": "scripted"})
    state = agent(call("lighthouse"), said).invoke({"messages": [("user", QUESTION)]})
    assert state["messages"][-1].response_metadata["model_name"] == "scripted"


def test_without_passages_nothing_is_checked() -> None:
    state = agent(AIMessage("Hello!")).invoke({"messages": [("user", "Hi!")]})
    assert (verdict(state)["status"], verdict(state)["reason"]) == ("not_checked", "no_passages")


def test_a_follow_up_is_checked_against_the_turn_before() -> None:
    made = agent(call("lighthouse"), AIMessage(GOOD), AIMessage("It was a king."))
    state = made.invoke({"messages": [("user", QUESTION)]})
    state = made.invoke({"messages": [*state["messages"], ("user", "Who built it?")]})
    assert verdict(state)["flagged"] is True
    assert state["messages"][-3].response_metadata["hallucination"]["flagged"] is False


def test_context_in_the_users_message_counts() -> None:
    asked = f"Context:\n{LIGHTHOUSE}\n\nQuestion: {QUESTION}"
    assert verdict(agent(AIMessage(BAD)).invoke({"messages": [("user", asked)]}))["flagged"] is True


def test_a_stream_of_updates_ends_with_the_verdict() -> None:
    updates = list(agent(call("lighthouse"), AIMessage(BAD)).stream({"messages": [("user", QUESTION)]}))
    [(node, update)] = updates[-1].items()
    assert node == "GroundwireMiddleware.after_agent"
    assert verdict(update)["flagged"] is True


def chain(answer: Any) -> Any:
    """What `create_retrieval_chain` gives: the input, the documents and the answer."""
    retrieved = [Document(LIGHTHOUSE, metadata={"source": "tower.md"})]
    gives = RunnableLambda(lambda values: {**values, "context": retrieved, "answer": answer})
    return gives | checked(Guard(fake_detector()))


@pytest.mark.parametrize("answer", [BAD, AIMessage(BAD)])
def test_a_retrieval_chains_answer_is_checked(answer: Any) -> None:
    values = chain(answer).invoke({"input": QUESTION})
    assert values["answer"] is answer
    assert values["hallucination"]["flagged"] is True
    values = asyncio.run(chain(GOOD).ainvoke({"input": QUESTION}))
    assert values["hallucination"]["flagged"] is False


def test_other_keys_may_hold_them() -> None:
    step = checked(Guard(fake_detector()), question="query", passages="documents", answer="result")
    values = step.invoke({"query": QUESTION, "documents": [], "result": GOOD})
    assert values["hallucination"]["reason"] == "no_passages"
