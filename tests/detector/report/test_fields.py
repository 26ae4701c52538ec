from __future__ import annotations

import pytest

from groundwire.errors import InputError
from groundwire.report.fields import Fields

VALUES = {"text": "a", "whole": 3, "number": 0.5, "flag": True, "object": {"x": 1}, "objects": [{"x": 1}], "null": None}
KINDS = ("text", "whole", "number", "flag", "object", "objects")


@pytest.mark.parametrize("kind", KINDS[:4])
def test_a_field_of_its_type_is_given_as_it_is(kind):
    assert getattr(Fields(VALUES, "line 1"), kind)(kind) == VALUES[kind]


def test_objects_are_fields_in_turn():
    fields = Fields(VALUES, "line 1")
    assert fields.object("object").whole("x") == 1
    assert [item.whole("x") for item in fields.objects("objects")] == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [*KINDS, "null", "absent"])
def test_a_field_of_another_type_is_named_with_its_place(kind, key):
    if (kind, key) in {(k, k) for k in KINDS} | {("number", "whole")}:
        return
    with pytest.raises(InputError, match=rf"line 1\.{key} is "):
        getattr(Fields(VALUES, "line 1"), kind)(key)


@pytest.mark.parametrize("kind", ["maybe_text", "maybe_whole", "maybe_number", "maybe_object"])
@pytest.mark.parametrize("key", ["null", "absent"])
def test_what_may_be_missing_is_none(kind, key):
    assert getattr(Fields(VALUES, "line 1"), kind)(key) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_numbers_are_finite(value):
    with pytest.raises(InputError, match="x is"):
        Fields({"x": value}, "line 1").number("x")


def test_a_place_deep_inside_is_named_in_full():
    with pytest.raises(InputError, match=r"line 2\.spans\[1\] is int 5"):
        Fields({"spans": [{}, 5]}, "line 2").objects("spans")
