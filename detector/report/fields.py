"""Typed access to one JSON object: a field of the wrong type is an error that names the line and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from groundwire.errors import InputError

REMEDY = "give the file as `groundwire score` wrote it"


class Fields:
    """The object `values`, found at `place` ("line 3: hallucination"). Every reader raises InputError on a wrong type.

    The `maybe_` readers give None where the field is absent or null.
    """

    def __init__(self, values: Any, place: str) -> None:
        if not isinstance(values, Mapping):
            raise wrong(place, values, "an object")
        self.values, self.place = values, place

    def text(self, key: str) -> str:
        value = self.values.get(key)
        return value if isinstance(value, str) else self._refuse(key, "a string")

    def maybe_text(self, key: str) -> str | None:
        return None if self.values.get(key) is None else self.text(key)

    def whole(self, key: str) -> int:
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else self._refuse(key, "a whole number")

    def maybe_whole(self, key: str) -> int | None:
        return None if self.values.get(key) is None else self.whole(key)

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if math.isfinite(number):
                return number
        return self._refuse(key, "a finite number")

    def maybe_number(self, key: str) -> float | None:
        return None if self.values.get(key) is None else self.number(key)

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def object(self, key: str) -> Fields:
        return Fields(self.values.get(key), self._at(key))

    def maybe_object(self, key: str) -> Fields | None:
        return None if self.values.get(key) is None else self.object(key)

    def objects(self, key: str) -> list[Fields]:
        value = self.values.get(key)
        if not isinstance(value, list):
            return self._refuse(key, "a list")
        return [Fields(item, f"{self._at(key)}[{i}]") for i, item in enumerate(value)]

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}"

    def _refuse(self, key: str, expected: str) -> Any:
        raise wrong(self._at(key), self.values.get(key), expected)


def wrong(place: str, value: object, expected: str) -> InputError:
    """The error for a value of the wrong type at `place`."""
    return InputError(f"{place} is {type(value).__name__} {value!r:.60}", expected=expected, remedy=REMEDY)
