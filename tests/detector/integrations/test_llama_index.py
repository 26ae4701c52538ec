"""LlamaIndex's evaluator and query engine interfaces, with its own mock model where it needs one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from groundwire import Guard
from groundwire.engines.fake import fake_detector

pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")

from llama_index.core import Response
from llama_index.core.evaluation import BatchEvalRunner
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from groundwire.integrations.llama_index import GroundwireEvaluator, GroundwireQueryEngine

LIGHTHOUSE = "The lighthouse was built in 1889 by a builder from Lisbon."
QUESTION = "When was the lighthouse built?"
GOOD, BAD = "The lighthouse was built in 1889.", "The lighthouse was built in 1931."


@pytest.fixture
def guard() -> Guard:
    return Guard(fake_detector())


class Retriever(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=LIGHTHOUSE, id_="tower"), score=1.0)]


def engine(guard: Guard, *, streaming: bool = False) -> GroundwireQueryEngine:
    """The mock model repeats the end of its prompt: the question, which is in its prompt but not in the passages."""
    synthesizer = get_response_synthesizer(llm=MockLLM(), streaming=streaming)
    return GroundwireQueryEngine(RetrieverQueryEngine(Retriever(), synthesizer), guard)


def test_a_faithful_answer_passes(guard: Guard) -> None:
    result = GroundwireEvaluator(guard).evaluate(QUESTION, GOOD, [LIGHTHOUSE])
    assert result.passing is True
    assert result.score is not None
    assert result.score > 0.5
    assert (result.feedback, result.invalid_result) == (None, False)


def test_an_unfaithful_one_fails_and_says_where(guard: Guard) -> None:
    result = GroundwireEvaluator(guard).evaluate(QUESTION, BAD, [LIGHTHOUSE])
    assert result.passing is False
    assert result.score is not None
    assert result.score < 0.5
    assert result.feedback is not None
    assert "1931" in result.feedback


def test_what_is_not_checked_is_invalid(guard: Guard) -> None:
    result = GroundwireEvaluator(guard).evaluate(QUESTION, BAD, [])
    assert (result.passing, result.score) == (None, None)
    assert (result.invalid_result, result.invalid_reason) == (True, "no_passages")
    assert GroundwireEvaluator(guard).evaluate(QUESTION, None, [LIGHTHOUSE]).invalid_reason == "empty_response"


def test_a_response_object_with_its_nodes(guard: Guard) -> None:
    response = Response(BAD, source_nodes=[NodeWithScore(node=TextNode(text=LIGHTHOUSE))])
    assert GroundwireEvaluator(guard).evaluate_response(query=QUESTION, response=response).passing is False


@pytest.mark.filterwarnings("ignore:asyncio_module:DeprecationWarning")  # LlamaIndex calls its own old name
def test_llamaindexs_own_batch_runner(guard: Guard) -> None:
    runner = BatchEvalRunner({"groundwire": GroundwireEvaluator(guard)}, workers=2)
    results = asyncio.run(
        runner.aevaluate_response_strs([QUESTION] * 2, response_strs=[GOOD, BAD], contexts_list=[[LIGHTHOUSE]] * 2)
    )
    assert [result.passing for result in results["groundwire"]] == [True, False]


def test_a_query_engines_response_carries_its_verdict(guard: Guard) -> None:
    response: Any = engine(guard).query(QUESTION)
    assert response.metadata["hallucination"]["status"] == "checked"
    assert response.metadata["tower"] == {}
    again: Any = asyncio.run(engine(guard).aquery(QUESTION))
    assert again.metadata["hallucination"] == response.metadata["hallucination"]


def test_a_stream_carries_it_from_its_end_on(guard: Guard) -> None:
    whole: Any = engine(guard).query(QUESTION)
    response: Any = engine(guard, streaming=True).query(QUESTION)
    assert "hallucination" not in response.metadata
    assert "".join(response.response_gen) == str(whole)
    assert response.metadata["hallucination"] == whole.metadata["hallucination"]
    assert str(engine(guard, streaming=True).query(QUESTION)) == str(whole)


def test_an_asynchronous_stream_too(guard: Guard) -> None:
    async def gathered() -> Any:
        response: Any = await engine(guard, streaming=True).aquery(QUESTION)
        text = "".join([chunk async for chunk in response.async_response_gen()])
        return text, response.metadata["hallucination"]["status"]

    text, status = asyncio.run(gathered())
    assert text == str(engine(guard).query(QUESTION))
    assert status == "checked"
