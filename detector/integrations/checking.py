"""A verdict on an answer that exists, failing open: what every adapter asks of a guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

from groundwire.guard import Guard
from groundwire.types import Verdict


def verdict_on(guard: Guard, question: Any, passages: Any, answer: Any) -> Verdict:
    """As `Guard.check`, but whatever breaks ends in "not_checked": a framework's answer is never lost to its check."""
    return cast(Verdict, list(guard.stream(question, passages, [answer]))[-1])


async def averdict_on(guard: Guard, question: Any, passages: Any, answer: Any) -> Verdict:
    """`verdict_on` off the event loop."""

    async def whole() -> AsyncIterator[Any]:
        yield answer

    return cast(Verdict, [item async for item in guard.astream(question, passages, whole())][-1])
