"""A verdict that has been given: counted, traced, and logged where there is a log."""

from __future__ import annotations

from typing import Any

from groundwire.server.verdict_log import Entry


def record(state: Any, entry: Entry) -> None:
    """`state` is the app's."""
    state.tracing.checked(entry.verdict, entry.id)
    keep(state, entry)


def keep(state: Any, entry: Entry) -> None:
    """`record` without the trace, where the answer's own has the verdict."""
    state.metrics.verdict(entry.verdict, entry.source)
    if state.verdict_log is not None:
        state.verdict_log.write(entry)
