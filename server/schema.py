"""The OpenAPI that is served: FastAPI's, with what it cannot know of this server: its model and limits, fields that
depend on each other, keys, errors by status, events of streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from groundwire.server.auth import METRICS, OPEN_PATHS
from groundwire.server.models import served_name
from groundwire.server.replies import ChatCompletionChunk, CompletionChunk

REF = "#/components/schemas/{model}"
ERROR = {"application/json": {"schema": {"$ref": REF.format(model="ErrorBody")}}}
CHUNKS: tuple[type[BaseModel], ...] = (ChatCompletionChunk, CompletionChunk)

# Of every request with a body. The others answer them as 4XX and 5XX.
ERRORS = {
    "400": "The request cannot be used; `param` names the field.",
    "408": "The body took too long to come.",
    "413": "The body is too large.",
    "429": "As many requests wait as may.",
    "503": "The server is shutting down.",
    "504": "The request took too long.",
}
NO_KEY = "The API key is missing or wrong."
NO_MODEL = "There is no such model here."
RETRY_AFTER = {"Retry-After": {"description": "Seconds to stay away.", "schema": {"type": "integer", "minimum": 1}}}


def _null(name: str) -> dict[str, Any]:
    return {"properties": {name: {"type": "null"}}}


def _has(**fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"properties": fields, "required": list(fields)}


_ASSISTANT = {"const": "assistant"}
_STREAMED = {"anyOf": [_null("stream_options"), _has(stream={"const": True})]}

# What validators check and a model's schema does not say.
RULES: Mapping[str, Mapping[str, Any]] = {
    "ChatRequest": {
        "allOf": [
            _STREAMED,
            {"anyOf": [_null("top_logprobs"), _has(logprobs={"const": True})]},
            {"anyOf": [_null("max_tokens"), _null("max_completion_tokens")]},
        ]
    },
    "CompletionRequest": {"allOf": [_STREAMED]},
    "Options": {"anyOf": [_null("threshold"), _null("target")]},
    "ChatMessage": {
        "anyOf": [
            _has(content={"type": ["string", "array"]}),
            _has(role=_ASSISTANT, refusal={"type": "string", "minLength": 1}),
            _has(role=_ASSISTANT, tool_calls={"type": "array", "minItems": 1}),
            _has(role=_ASSISTANT, function_call={"type": "object"}),
        ]
    },
}


def streaming(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers with `whole`, or with a stream of `chunk`."""
    known = [{"$ref": REF.format(model=name)} for name in (chunk.__name__, "ErrorBody")]
    event = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": known}}
    return {
        200: {
            "description": "Answers with their verdicts; in a stream, the verdict is where finish_reason is.",
            "model": whole,
            "content": {"text/event-stream": {"itemSchema": _has(data={"anyOf": [{"const": "[DONE]"}, event]})}},
        }
    }


def install(app: FastAPI) -> None:
    """Have `app` serve this description, which is made when it is first asked for."""
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        plain = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        app.openapi_schema = _completed(_exact(plain), app)
    return app.openapi_schema


def _completed(schema: dict[str, Any], app: FastAPI) -> dict[str, Any]:
    components = schema["components"]["schemas"]
    _, chunks = models_json_schema([(chunk, "serialization") for chunk in CHUNKS], ref_template=REF)
    components |= chunks["$defs"]
    for name in RULES.keys() & components.keys():
        components[name] |= RULES[name]
    _limit(components, app)
    schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    settings = app.state.settings
    keyed = bool(settings.api_keys or settings.api_keys_file)
    open_paths = OPEN_PATHS | {METRICS} if settings.metrics_open else OPEN_PATHS
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            closed = keyed and path not in open_paths
            if closed:
                operation["security"] = [{"key": []}]
            operation["responses"] |= _errors(path, closed=closed, body="requestBody" in operation)
    return schema


def _exact(schema: Any) -> Any:
    """Whole numbers as such: FastAPI makes floats of bounds, and 2**63 is no float that can be read by everyone."""
    if isinstance(schema, dict):
        return {name: _exact(value) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_exact(value) for value in schema]
    return int(schema) if isinstance(schema, float) and schema.is_integer() else schema


def _limit(components: dict[str, Any], app: FastAPI) -> None:
    """What this server's settings and model allow."""
    settings = app.state.settings
    components["DetectRows"]["properties"]["inputs"]["maxItems"] = settings.max_rows
    for name in components.keys() & {"ChatRequest", "CompletionRequest", "ForwardedChat", "ForwardedText"}:
        fields = components[name]["properties"]
        fields["n"]["anyOf"][0]["maximum"] = settings.max_choices
        if settings.upstream_url is None:
            fields["model"]["enum"] = [served_name(settings, app.state.detector)]
    for name in components.keys() & {"CompletionRequest", "ForwardedText"}:
        components[name]["allOf"] = [*components[name].get("allOf", ()), _product(settings.max_choices)]
    targets = [name for name, score in app.state.detector.thresholds.items() if score < 1]
    components["Options"]["properties"]["target"]["anyOf"][0]["enum"] = targets


def _product(most: int) -> dict[str, Any]:
    """Every prompt has `n` answers, of which a request may have `most` in all."""
    prompts = {most // count: count for count in range(1, most + 1)}
    pairs = [{"prompt": {"maxItems": count}, "n": {"maximum": n}} for n, count in prompts.items()]
    return {"anyOf": [{"properties": pair} for pair in pairs]}


def _errors(path: str, *, closed: bool, body: bool) -> dict[str, Any]:
    """The errors of one operation, by status."""
    found = dict(ERRORS) if body else {}
    if closed:
        found["401"] = NO_KEY
    if path.endswith(("/completions", "/{model}")):
        found["404"] = NO_MODEL
    headers = {"429": {"headers": RETRY_AFTER}}
    return {code: {"description": text, "content": ERROR} | headers.get(code, {}) for code, text in found.items()}
