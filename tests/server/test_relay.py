"""What of an upstream's reply is written how; what it does is in test_gateway."""

from __future__ import annotations

import json

import pytest

from groundwire.server.relay import COUNTS, dumped, event


@pytest.mark.parametrize("value", ["plain", "é😀", "half \ud83d", float("-inf"), 2**70, {"a": [None, True]}])
def test_what_came_as_json_goes_as_json(value):
    assert json.loads(dumped({"a": value})) == {"a": value}


def test_an_event_is_one_line():
    assert event({"a": "b\nc"}) == b'data: {"a":"b\\nc"}\n\n'


def test_names_that_others_read():
    assert COUNTS == ("prompt_tokens", "completion_tokens", "total_tokens")
