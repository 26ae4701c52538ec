"""POST /v1/detect: verdicts on answers that exist, one row or many. Rows are those of `groundwire score`.

A row that cannot be read or scored is answered `not_checked` in its place, and never stops the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag
from starlette.responses import JSONResponse, Response

from groundwire.batch.rows import NoPassages, parse_row, row_id
from groundwire.detector import Detector
from groundwire.errors import InputError
from groundwire.guard import decide
from groundwire.server.disconnect import ClientGone, unless_gone
from groundwire.server.errors import ApiError
from groundwire.server.judgement import Judgement
from groundwire.server.logs import CLOSED, note, request_id
from groundwire.server.models import served_name
from groundwire.server.recording import record
from groundwire.server.verdict_log import Entry
from groundwire.server.wire import Wire
from groundwire.types import Detection, Example, Reason, Verdict

router = APIRouter()


class DetectOptions(Wire):
    """How verdicts are made and written."""

    threshold: float | None = Field(default=None, ge=0, le=1, description="Score above which an answer is flagged.")
    top_terms: int = Field(default=5, ge=0, le=1000, description="How many contributions to list.")
    tokens: bool = Field(default=False, description="Give the score of every token as well.")


class DetectRow(BaseModel):
    """One row, its fields beside the options. Other fields are ignored, as in a file of rows."""

    model_config = ConfigDict(extra="allow")

    inputs: None = None
    id: Any = Field(None, description="A string or a whole number; without, the row's place in `inputs`.")
    response: Any = Field(None, description="The answer to be checked.")
    prompt: Any = Field(None, description="What was asked, passages included, as one string.")
    messages: Any = Field(None, description='Or as messages: [{"role": "user", "content": "..."}].')
    context: Any = Field(None, description='Or the passages: strings or {"id", "text"} objects,')
    question: Any = Field(None, description="with the question.")
    hallucination: DetectOptions | None = None


class DetectRows(Wire):
    """Several rows, each with the fields of `DetectRow`."""

    inputs: list[Any]
    hallucination: DetectOptions | None = None


def _one_or_many(body: Any) -> str:
    return "many" if isinstance(body, dict) and body.get("inputs") is not None else "one"


DetectRequest = Annotated[
    Annotated[DetectRow, Tag("one")] | Annotated[DetectRows, Tag("many")], Discriminator(_one_or_many)
]


class Row(BaseModel):
    """A row's verdict."""

    id: str | int
    hallucination: Judgement


class Rows(BaseModel):
    """One verdict for each of the inputs, in their order."""

    results: list[Row]


@router.post("/v1/detect", response_model=Row | Rows)
async def detect(body: DetectRequest, request: Request) -> Response:
    """Say for each answer whether it stays with its passages. Nothing is generated."""
    options, limit = body.hallucination or DetectOptions(), request.app.state.settings.max_rows
    try:
        if isinstance(body, DetectRow):
            row = body.model_dump(exclude={"inputs", "hallucination"})
            return JSONResponse((await _judge([row], options, request))[0])
        if len(body.inputs) > limit:
            message = f"{len(body.inputs)} rows in one request; at most {limit} are taken."
            raise ApiError(400, message, param="inputs", code="too_many_inputs")
        return JSONResponse({"results": await _judge(body.inputs, options, request)})
    except ClientGone:
        return Response(status_code=CLOSED)


async def _judge(rows: Sequence[Any], options: DetectOptions, request: Request) -> list[dict[str, Any]]:
    """One `{"id", "hallucination"}` per row, in order."""
    state = request.app.state
    names = [_name(row, i) for i, row in enumerate(rows)]
    read = [_read(row, str(name), state.detector) for row, name in zip(rows, names, strict=True)]
    scoring = state.loop.score([item for item in read if isinstance(item, Example)])
    found = iter(await unless_gone(request.receive, scoring))
    threshold = state.detector.threshold if options.threshold is None else options.threshold
    verdicts = [decide(next(found) if isinstance(item, Example) else item, threshold) for item in read]
    for i, (verdict, item) in enumerate(zip(verdicts, read, strict=True)):
        _record(request, i, verdict, item if isinstance(item, Example) else None)
    scores = [v.score for v in verdicts if v.score is not None]
    note(request, rows=len(rows), flagged=sum(bool(v.flagged) for v in verdicts), score=max(scores, default=None))
    shown = [v.to_dict(top_terms=options.top_terms, tokens=options.tokens) for v in verdicts]
    return [{"id": name, "hallucination": verdict} for name, verdict in zip(names, shown, strict=True)]


def _name(row: Any, place: int) -> str | int:
    """The row's id as given, else its place."""
    try:
        name = row_id(row) if isinstance(row, dict) else None
    except InputError:
        name = None
    return place if name is None else name


def _read(row: Any, name: str, detector: Detector) -> Example | Detection:
    """The row's example, or why there is none."""
    try:
        return parse_row(row, default_id=name)
    except InputError as error:
        reason: Reason = "no_passages" if isinstance(error, NoPassages) else "invalid_input"
        return detector.not_checked(reason, f"{error.given}. Expected: {error.expected}")


def _record(request: Request, place: int, verdict: Verdict, example: Example | None) -> None:
    state = request.app.state
    name, model = f"{request_id(request)}-{place}", served_name(state.settings, state.detector)
    messages, response = (example.messages, example.response) if example else ((), None)
    record(state, Entry(name, "detect", verdict, model, messages, response))
