"""LlamaIndex: an evaluator, and a query engine whose responses carry their verdict.

from groundwire.integrations.llama_index import GroundwireEvaluator, GroundwireQueryEngine
GroundwireEvaluator().evaluate_response(query="...", response=engine.query("..."))
GroundwireQueryEngine(index.as_query_engine()).query("...").metadata["hallucination"]
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from groundwire.errors import MissingExtra
from groundwire.guard import Guard
from groundwire.integrations.checking import averdict_on, verdict_on
from groundwire.types import Verdict

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.response.schema import RESPONSE_TYPE, AsyncStreamingResponse, StreamingResponse
    from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
    from llama_index.core.schema import QueryBundle
except ImportError as error:
    raise MissingExtra("llama-index-core", "llama-index") from error


class GroundwireEvaluator(BaseEvaluator):
    """Evaluates whether a response stays with its contexts.

    Of the result, `score` is the probability that it does (LlamaIndex wants more to be better: one minus Groundwire's
    score), `passing` whether it was not flagged, `feedback` what left the contexts. What is not checked is an invalid
    result with its reason, and neither passes nor fails.
    """

    def __init__(self, guard: Guard | None = None) -> None:
        self.guard = Guard() if guard is None else guard

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """There are none."""

    def evaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        return _result(query, response, contexts, verdict_on(self.guard, query or "", contexts or [], response or ""))

    async def aevaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        verdict = await averdict_on(self.guard, query or "", contexts or [], response or "")
        return _result(query, response, contexts, verdict)


class GroundwireQueryEngine(BaseQueryEngine):
    """A query engine around another: checks each response against its source nodes.

    The verdict is `response.metadata["hallucination"]`; of a streaming response from the end of the stream on.
    """

    def __init__(self, engine: BaseQueryEngine, guard: Guard | None = None) -> None:
        super().__init__(engine.callback_manager)
        self.engine, self.guard = engine, Guard() if guard is None else guard

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {"engine": self.engine}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        response, query = self.engine.query(query_bundle), query_bundle.query_str
        if isinstance(response, StreamingResponse):
            response.response_gen = self._stream(query, response, response.response_gen)
        else:
            _note(response, verdict_on(self.guard, query, response.source_nodes, _text(response)))
        return response

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        response, query = await self.engine.aquery(query_bundle), query_bundle.query_str
        if isinstance(response, AsyncStreamingResponse):
            response.response_gen = self._astream(query, response, response.response_gen)
        elif isinstance(response, StreamingResponse):
            response.response_gen = self._stream(query, response, response.response_gen)
        else:
            _note(response, await averdict_on(self.guard, query, response.source_nodes, _text(response)))
        return response

    def _stream(self, query: str, response: StreamingResponse, chunks: Iterator[str]) -> Generator[str, None, None]:
        for item in self.guard.stream(query, response.source_nodes, chunks):
            if isinstance(item, Verdict):
                _note(response, item)
            else:
                yield item

    async def _astream(
        self, query: str, response: AsyncStreamingResponse, chunks: AsyncIterator[str]
    ) -> AsyncGenerator[str, None]:
        async with aclosing(self.guard.astream(query, response.source_nodes, chunks)) as items:
            async for item in items:
                if isinstance(item, Verdict):
                    _note(response, item)
                else:
                    yield item


def _text(response: Any) -> str:
    return "" if response.response is None else str(response)


def _note(response: Any, verdict: Verdict) -> None:
    response.metadata = {**(response.metadata or {}), "hallucination": verdict.to_dict()}


def _result(
    query: str | None, response: str | None, contexts: Sequence[str] | None, verdict: Verdict
) -> EvaluationResult:
    left = [f'"{span.text}" ({span.score:.2f})' for span in verdict.spans]
    return EvaluationResult(
        query=query,
        contexts=contexts,
        response=response,
        passing=None if verdict.flagged is None else not verdict.flagged,
        score=None if verdict.score is None else 1 - verdict.score,
        feedback=f"Not in the contexts: {', '.join(left)}" if left else None,
        invalid_result=not verdict.detection.checked,
        invalid_reason=verdict.detection.reason,
    )
