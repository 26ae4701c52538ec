"""How requests are read: no coercion, nothing unknown, and fields that are refused unless they are not used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

FIELDS = 200  # of one object: each that is unknown is an error of its own


class Wire(BaseModel):
    """Base of everything that is read from a request."""

    # A minimal length, even of nothing, has every string looked at: half a surrogate pair is no text.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, str_min_length=0)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, given: Any) -> Any:
        """JSON has one kind of number: 2.0 is the integer 2."""
        if not isinstance(given, dict):
            return given
        if len(given) > FIELDS:
            raise refusal("too_many_fields", f"an object of {len(given)} fields: none here has more than {FIELDS}")
        return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in given.items()}


def refusal(kind: str, message: str) -> PydanticCustomError:
    """A validation error of our own kind and message, to raise in a validator."""
    return PydanticCustomError(kind, "{message}", {"message": message})


@dataclass(frozen=True)
class FirstError:
    """Annotation of a list or mapping that is refused at its first wrong item: a body may hold a million of them."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        return {**schema, "fail_fast": True}


@dataclass(frozen=True, eq=False)  # 0 equals False, and `typing` shares annotations that are equal
class Only:
    """Annotation of a field that is accepted at null and at the values that mean "not used", and refused at others."""

    neutral: tuple[Any, ...]
    remedy: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.neutral]}

    def _check(self, value: Any) -> Any:
        if value is None or any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.neutral):
            return value
        raise refusal("unsupported_value", f"not supported by this server: {self.remedy}")
