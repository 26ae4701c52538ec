"""The endpoint and the adapters find passages by one rule; tests/detector/test_conversation.py tests it."""

from __future__ import annotations

from groundwire import conversation
from groundwire.server.passages import Found, found_passages


def test_there_is_one_rule() -> None:
    assert found_passages is conversation.found_passages
    assert Found is conversation.Found
