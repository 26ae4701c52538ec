"""LangChain: middleware that checks an agent's answers, and a step that checks a retrieval chain's.

from groundwire.integrations.langchain import GroundwireMiddleware, checked
agent = create_agent(model, tools, middleware=[GroundwireMiddleware()])
agent.invoke(...)["messages"][-1].response_metadata["hallucination"]

chain = create_retrieval_chain(retriever, documents_chain) | checked()
chain.invoke({"input": "..."})["hallucination"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groundwire.conversation import found_passages
from groundwire.errors import MissingExtra
from groundwire.guard import Guard
from groundwire.integrations.checking import averdict_on, verdict_on
from groundwire.types import Passage, Verdict

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
    from langchain_core.runnables import Runnable, RunnableLambda
except ImportError as error:
    raise MissingExtra("langchain", "langchain") from error


class GroundwireMiddleware(AgentMiddleware):
    """Writes the verdict into `response_metadata["hallucination"]` of an agent's final message.

    The answer must stay with the results of tools since the last question; without any, with the passages that
    `groundwire.conversation` finds in the messages. An answer without passages gets "not_checked". A final message
    without text, or with calls of tools, is left as it is.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        super().__init__()
        self.guard = Guard() if guard is None else guard

    def after_agent(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        asked = _asked(state["messages"])
        return asked and _noted(state["messages"][-1], verdict_on(self.guard, *asked))

    async def aafter_agent(self, state: AgentState[Any], runtime: Any) -> dict[str, Any] | None:
        asked = _asked(state["messages"])
        return asked and _noted(state["messages"][-1], await averdict_on(self.guard, *asked))


def checked(
    guard: Guard | None = None, *, question: str = "input", passages: str = "context", answer: str = "answer"
) -> Runnable[dict[str, Any], dict[str, Any]]:
    """A step for the end of a chain: adds "hallucination" to its dict, the verdict on `answer`.

    question, passages, answer: the keys that hold them; the defaults are those of `create_retrieval_chain`. Passages
    are whatever `passages_of` takes, Documents among them; the answer is a string or a message. Streams are gathered.
    """
    used = Guard() if guard is None else guard

    def arguments(values: dict[str, Any]) -> tuple[Any, Any, Any]:
        said = values[answer]
        return values[question], values[passages], said.text if isinstance(said, BaseMessage) else said

    def check(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "hallucination": verdict_on(used, *arguments(values)).to_dict()}

    async def acheck(values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "hallucination": (await averdict_on(used, *arguments(values))).to_dict()}

    return RunnableLambda(check, acheck, name="groundwire")


def _asked(messages: Sequence[BaseMessage]) -> tuple[str, tuple[Passage, ...], str] | None:
    """The question, the passages and the answer; None where the last message is no answer."""
    answer = messages[-1] if messages else None
    if not isinstance(answer, AIMessage) or answer.tool_calls or not answer.text:
        return None
    before = convert_to_openai_messages(list(messages[:-1]), text_format="string")
    chat = before if isinstance(before, list) else [before]
    users = [message["content"] for message in chat if message["role"] == "user"]
    question = users[-1] if users and isinstance(users[-1], str) else ""
    return question, found_passages(chat).passages, str(answer.text)


def _noted(answer: BaseMessage, verdict: Verdict) -> dict[str, Any]:
    """The state's update: the same message, by its id, with the verdict in its metadata."""
    metadata = {**answer.response_metadata, "hallucination": verdict.to_dict()}
    return {"messages": [answer.model_copy(update={"response_metadata": metadata})]}
