"""LiteLLM: a guardrail that has a Groundwire server check the answers of any model, in the SDK and in the proxy.

    guardrails:
      - guardrail_name: groundwire
        litellm_params:
          guardrail: groundwire.integrations.litellm.GroundwireGuardrail
          mode: post_call
          default_on: true
          api_base: http://127.0.0.1:8000

The verdict is `message.provider_specific_fields["hallucination"]` of each choice, in a stream that of the delta with
the finish reason. What the answer must stay with is found by `groundwire.conversation`, or given in the request's
`metadata`: {"hallucination": {"passages": [...]}}. An answer without passages is not sent, and "not_checked".
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from groundwire.conversation import Found, found_passages
from groundwire.errors import InputError, MissingExtra
from groundwire.passages import passages_of
from groundwire.types import Detection, Reason, Verdict

try:
    from litellm import ModelResponse
    from litellm.exceptions import GuardrailRaisedException
    from litellm.integrations.custom_guardrail import CustomGuardrail
    from litellm.llms.custom_httpx.http_handler import get_async_httpx_client
    from litellm.types.guardrails import GuardrailEventHooks
    from litellm.types.llms.custom_http import httpxSpecialProvider
except ImportError as error:
    raise MissingExtra("litellm", "litellm") from error

logger = logging.getLogger(__name__)


class GroundwireGuardrail(CustomGuardrail):
    """A post_call guardrail for chat completions.

    api_base, api_key: of the Groundwire server. policy: "annotate" attaches the verdict, "block" also refuses a flagged
    answer (a stream is held back until its verdict). on_failure: where the server cannot be asked, "open" lets
    the answer pass as "not_checked", "closed" refuses it. timeout: seconds for the server's answer.
    Raises InputError on another policy or on_failure.
    """

    def __init__(
        self,
        api_base: str,
        api_key: str | None = None,
        policy: str = "annotate",
        on_failure: str = "open",
        timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        _one_of("policy", policy, ("annotate", "block"))
        _one_of("on_failure", on_failure, ("open", "closed"))
        self.url = f"{api_base.rstrip('/').removesuffix('/v1')}/v1/detect"
        self.headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self.block, self.closed, self.timeout = policy == "block", on_failure == "closed", timeout
        super().__init__(supported_event_hooks=[GuardrailEventHooks.post_call], timeout=timeout, **kwargs)

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        """Attach the verdicts to a whole reply. Raises GuardrailRaisedException where it is refused."""
        if not isinstance(response, ModelResponse):
            return response
        answers = [(choice.message.content, bool(choice.message.tool_calls)) for choice in response.choices]
        for choice, verdict in zip(response.choices, await self._verdicts(data, answers), strict=True):
            _attach(choice.message, verdict)
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: AsyncIterator[Any], request_data: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """The chunks, and on the last of each choice its verdict. With "block", all of them after all verdicts."""
        said: dict[int, tuple[str, bool]] = {}
        held: list[Any] = []
        async for chunk in response:
            for choice in getattr(chunk, "choices", None) or ():
                text, called = said.get(choice.index, ("", False))
                said[choice.index] = text + (choice.delta.content or ""), called or bool(choice.delta.tool_calls)
                if choice.finish_reason:
                    [verdict] = await self._verdicts(request_data, [said[choice.index]])
                    _attach(choice.delta, verdict)
            if self.block:
                held.append(chunk)
            else:
                yield chunk
        for chunk in held:
            yield chunk

    async def _verdicts(
        self, data: Mapping[str, Any], answers: Sequence[tuple[str | None, bool]]
    ) -> list[dict[str, Any]]:
        """One for each answer and whether it calls tools. Raises GuardrailRaisedException where one is refused."""
        try:
            found = _found(data)
            verdicts = [_unasked(found, *answer) for answer in answers]
            rows = [
                {"id": i, "messages": found.messages, "response": answers[i][0]}
                for i, verdict in enumerate(verdicts)
                if verdict is None
            ]
            for row in await self._detect(rows) if rows else ():
                verdicts[row["id"]] = row["hallucination"]
        except Exception as error:
            logger.warning("an answer was not checked: %s", error, exc_info=error)
            if self.closed:
                message = "The answer could not be checked."
                raise GuardrailRaisedException(self.guardrail_name, message, status_code=503) from error
            reason: Reason = "invalid_input" if isinstance(error, InputError) else "capture_failed"
            verdicts = [_not_checked(reason, f"{type(error).__name__}: {error}"[:200]) for _ in answers]
        if self.block and any(verdict and verdict["flagged"] for verdict in verdicts):
            message = "The answer does not stay with its passages."
            raise GuardrailRaisedException(self.guardrail_name, message, blocked_content=True)
        return [verdict or _not_checked("invalid_input") for verdict in verdicts]

    async def _detect(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        client = get_async_httpx_client(llm_provider=httpxSpecialProvider.GuardrailCallback)
        reply = await client.post(self.url, headers=self.headers, json={"inputs": rows}, timeout=self.timeout)
        return list(reply.json()["results"])


def _found(data: Mapping[str, Any]) -> Found:
    """Of a request: the passages in its metadata, else those in its messages."""
    options = (data.get("metadata") or {}).get("hallucination") or {}
    given = options.get("passages")
    asked = data.get("messages")
    if asked is None:  # the SDK passes on only what was given by keyword
        asked = getattr(data.get("litellm_logging_obj"), "model_call_details", {}).get("messages")
    messages = [{**message, "content": _text(message.get("content"))} for message in asked or ()]
    return found_passages(messages, None if given is None else passages_of(given))


def _text(content: Any) -> str:
    """The text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
    return content if isinstance(content, str) else ""


def _unasked(found: Found, answer: str | None, called: bool) -> dict[str, Any] | None:
    """The verdict on an answer that need not be sent; None where it must."""
    if called:
        return _not_checked("tool_call")
    if found.reason is not None:
        return _not_checked(found.reason)
    return None if answer and answer.strip() else _not_checked("empty_response")


def _not_checked(reason: Reason, detail: str | None = None) -> dict[str, Any]:
    detection = Detection("not_checked", reason, detail=detail)
    return Verdict(detection, threshold=None, flagged=None, action="annotate").to_dict()


def _attach(message: Any, verdict: dict[str, Any]) -> None:
    own = getattr(message, "provider_specific_fields", None) or {}
    message.provider_specific_fields = {**own, "hallucination": verdict}


def _one_of(name: str, given: str, allowed: tuple[str, ...]) -> None:
    if given not in allowed:
        raise InputError(f"{name} of {given!r}", expected=" or ".join(allowed))
