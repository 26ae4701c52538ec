from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from groundwire.server.wire import FirstError, Only, Wire


class Wired(Wire):
    number: Annotated[Any, Only((0,), "leave it out")] = None
    flag: Annotated[Any, Only((False,), "leave it out")] = None
    count: int | None = None


@pytest.mark.parametrize("value", [None, 0, 0.0])
def test_a_field_is_accepted_where_it_is_not_used(value):
    assert Wired(number=value).number == value


@pytest.mark.parametrize("value", [1, -0.5, False, "0", [], {"a": 1}])
def test_every_other_value_is_refused_with_the_remedy(value):
    with pytest.raises(ValidationError, match="not supported by this server: leave it out") as refused:
        Wired(number=value)
    assert refused.value.errors()[0]["loc"] == ("number",)


@pytest.mark.parametrize("value", [True, 0])
def test_false_is_no_number(value):
    with pytest.raises(ValidationError):
        Wired(flag=value)


def test_the_schema_lists_what_is_accepted():
    assert Wired.model_json_schema()["properties"]["number"]["enum"] == [None, 0]


def test_nothing_is_coerced_and_nothing_unknown():
    with pytest.raises(ValidationError):
        Wired(count="3")
    with pytest.raises(ValidationError, match="Extra inputs"):
        Wired(other=1)


class Many(Wire):
    items: Annotated[list[int], FirstError()] | None = None
    named: Annotated[dict[str, int], FirstError()] | None = None


@pytest.mark.parametrize("given", [{"items": ["a"] * 5}, {"named": {"a": "b", "c": "d"}}])
def test_the_first_wrong_item_is_enough(given):
    with pytest.raises(ValidationError) as refused:
        Many.model_validate(given)
    assert refused.value.error_count() == 1


def test_an_object_of_unknown_fields_is_one_error():
    with pytest.raises(ValidationError, match="300 fields") as refused:
        Wired.model_validate({f"x{i}": 0 for i in range(300)})
    assert refused.value.error_count() == 1
