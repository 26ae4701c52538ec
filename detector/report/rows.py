"""Rows that `groundwire score` wrote, one at a time: an id and what `Verdict.to_dict` gave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from groundwire.batch.parquet_rows import parquet_rows
from groundwire.batch.sources import opened, source_of
from groundwire.errors import InputError
from groundwire.report.fields import REMEDY, Fields, wrong
from groundwire.types import Contribution, Span, Term

Kind = Literal["latent", "grounding", "residual"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Unlike:
    """How far a response lies from what the detector was trained on; `flag` says whether that is too far."""

    flag: bool
    distance: float | None = None
    quantile: float | None = None


@dataclass(frozen=True)
class Scored:
    """One scored row; numbers are None where it was not checked. `shares` sums the contributions per kind of term.

    `other` sums the contributions that are not among `terms`; `sigmoid(intercept + terms + other) == score`.
    """

    line: int
    id: str | int
    checked: bool
    reason: str | None = None
    score: float | None = None
    flagged: bool = False
    threshold: float | None = None
    logit: float | None = None
    intercept: float | None = None
    other: float | None = None
    detector: Mapping[str, Any] | None = None
    spans: tuple[Span, ...] = ()
    terms: tuple[Contribution, ...] = ()
    shares: Mapping[str, float] | None = None
    unlike: Unlike | None = None


def read_scored(source: str | Path) -> Iterator[Scored]:
    """Rows of a file that `score` wrote, in any of its formats, or of standard input ("-", JSONL), in order.

    Few are in memory at a time. Blank lines are skipped.

    Raises InputError, naming the line, where the file cannot be read or holds anything that `score` does not write.
    """
    file = source_of(source)
    if file.format == "parquet":
        for number, row in parquet_rows(file, None):
            yield parse_scored(_from_parquet(row), number)
        return
    with opened(file) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield parse_scored(_load(line, number), number)


def _from_parquet(row: Any) -> Any:
    """As it was before `score` wrote it: what the detector says of itself is JSON there."""
    verdict = row.get("hallucination")
    if isinstance(verdict, dict) and isinstance(verdict.get("detector"), str):
        row = row | {"hallucination": verdict | {"detector": json.loads(verdict["detector"])}}
    return row


def parse_scored(row: Any, line: int) -> Scored:
    """The row of line `line`. Raises InputError where a field is missing or of the wrong type."""
    fields = Fields(row, f"line {line}")
    name = row.get("id")
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise wrong(f"line {line}.id", name, "a string or a whole number")
    verdict = fields.object("hallucination")
    status = verdict.text("status")
    if status not in ("checked", "not_checked"):
        raise wrong(f"{verdict.place}.status", status, '"checked" or "not_checked"')
    detector = verdict.maybe_object("detector")
    about = detector.values if detector else None
    if status == "not_checked":
        return Scored(line, name, checked=False, reason=verdict.text("reason"), detector=about)
    return Scored(
        line,
        name,
        checked=True,
        score=_probability(verdict, "score"),
        flagged=verdict.flag("flagged"),
        threshold=_probability(verdict, "threshold"),
        logit=verdict.maybe_number("logit"),
        intercept=verdict.maybe_number("intercept"),
        other=verdict.maybe_number("other"),
        detector=about,
        spans=tuple(_span(span) for span in verdict.objects("spans")),
        terms=tuple(_term(term) for term in verdict.objects("terms")),
        shares=_shares(verdict.maybe_object("shares")),
        unlike=_unlike(verdict.maybe_object("unlike_training")),
    )


def _load(line: bytes, number: int) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or beyond Python's limits
        what = f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(
            f"line {number} is no readable JSON: {what}", expected="one JSON object per line, in UTF-8", remedy=REMEDY
        ) from error


def _probability(fields: Fields, key: str) -> float:
    value = fields.number(key)
    if not 0 <= value <= 1:
        raise wrong(f"{fields.place}.{key}", value, "a number from 0 to 1")
    return value


def _span(fields: Fields) -> Span:
    start, end = fields.whole("start"), fields.whole("end")
    if not 0 <= start <= end:
        raise wrong(fields.place, [start, end], "0 <= start <= end, counted in Unicode code points")
    evidence = fields.maybe_object("evidence")
    if evidence:
        evidence.text("text")
        evidence.maybe_number("similarity")
    found = evidence.values if evidence else None
    return Span(start, end, fields.text("text"), fields.number("score"), found, fields.maybe_text("reason"))


def _term(fields: Fields) -> Contribution:
    named = fields.text("kind")
    kind = next((kind for kind in KINDS if kind == named), None)
    if kind is None:
        raise wrong(f"{fields.place}.kind", named, f"one of {', '.join(KINDS)}")
    term = Term(kind, fields.text("name"), fields.maybe_whole("feature_id"))
    return Contribution(term, fields.number("contribution"), fields.maybe_text("token"), fields.maybe_whole("start"))


def _shares(fields: Fields | None) -> Mapping[str, float] | None:
    return None if fields is None else {kind: fields.number(kind) for kind in KINDS if kind in fields.values}


def _unlike(fields: Fields | None) -> Unlike | None:
    if fields is None:
        return None
    return Unlike(fields.flag("flag"), fields.maybe_number("distance"), fields.maybe_number("quantile"))
