"""LangChain's ChatOpenAI for a Groundwire server: the `hallucination` field, which ChatOpenAI drops, is kept.

    from groundwire.integrations.chat_groundwire import ChatGroundwire
    model = ChatGroundwire(base_url="http://127.0.0.1:8000/v1", api_key="none", model="smollm2-135m-instruct")
    model.invoke("...").response_metadata["hallucination"]

Options of the check go where OpenAI's extra fields go: `extra_body={"hallucination": {"policy": "redact"}}`.
"""

from __future__ import annotations

from typing import Any

from groundwire.errors import MissingExtra

try:
    from langchain_core.outputs import ChatGenerationChunk, ChatResult
    from langchain_openai import ChatOpenAI
except ImportError as error:
    raise MissingExtra("langchain-openai", "langchain") from error

FIELD = "hallucination"
RUNNING = "hallucination_running"


class ChatGroundwire(ChatOpenAI):
    """ChatOpenAI whose messages hold the verdict in `response_metadata["hallucination"]`.

    In a stream it is on the chunk with the finish reason, and on the sum of the chunks. Running scores, where the
    request asks for them, are in `additional_kwargs["hallucination_running"]`: of a chunk, a list of its one score; of
    the sum, all of them.
    """

    use_responses_api: bool | None = False  # the verdict rides on chat completions

    @property
    def _llm_type(self) -> str:
        return "groundwire-chat"

    def _create_chat_result(self, response: Any, generation_info: dict[str, Any] | None = None) -> ChatResult:
        result = super()._create_chat_result(response, generation_info)
        choices = response["choices"] if isinstance(response, dict) else response.choices
        for generation, choice in zip(result.generations, choices, strict=True):
            verdict = choice.get(FIELD) if isinstance(choice, dict) else getattr(choice, FIELD, None)
            generation.message.response_metadata[FIELD] = verdict
        return result

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        made = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        choices = chunk.get("choices") or chunk.get("chunk", {}).get("choices") or [{}]
        if made is None or FIELD not in choices[0]:
            return made
        verdict = choices[0][FIELD]
        if choices[0].get("finish_reason"):  # once in a stream: numbers in metadata cannot be merged
            made.message.response_metadata[FIELD] = verdict
        elif verdict:
            made.message.additional_kwargs[RUNNING] = [verdict["score"]]
        return made
