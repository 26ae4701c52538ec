from __future__ import annotations

import pytest
from pydantic import ValidationError

from groundwire.server.options import Options
from groundwire.types import Passage


def test_passages_are_strings_or_objects():
    options = Options.model_validate({"passages": ["one", {"text": "two", "id": "b"}]})
    assert options.given() == (Passage("one"), Passage("two", "b"))


def test_no_passages_and_an_empty_list_differ():
    assert Options().given() is None
    assert Options.model_validate({"passages": []}).given() == ()


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"policy": "delete"}, ("policy",)),
        ({"threshold": 1.5}, ("threshold",)),
        ({"threshold": float("nan")}, ("threshold",)),
        ({"passages": [1]}, ("passages", 0)),
        ({"passages": [{"txt": "a"}]}, ("passages", 0, "text")),
        ({"passages": "one text"}, ("passages",)),
        ({"top_terms": -1}, ("top_terms",)),
        ({"enabled": "yes"}, ("enabled",)),
        ({"polcy": "block"}, ("polcy",)),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(given, place):
    with pytest.raises(ValidationError) as refused:
        Options.model_validate(given)
    assert refused.value.errors()[0]["loc"] == place


def test_the_schema_can_be_served():
    passages = Options.model_json_schema()["properties"]["passages"]
    assert {"type": "string"} in passages["anyOf"][0]["items"]["anyOf"]
