"""A verdict that has been given: counted, traced, and logged where there is a log."""

from __future__ import annotations

from typing import Any

from groundwire.server.verdict_log import Entry


def record(state: Any, entry: Entry) -> None:
    """`state` is the app's."""
    state.metrics.verdict(entry.verdict, entry.source)
    state.tracing.checked(entry.verdict, entry.id)
    if state.verdict_log is not None:
        state.verdict_log.write(entry)
