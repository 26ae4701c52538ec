"""What `features.json` of a detector says about a latent: where it fires, and what it promotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from groundwire.errors import ArtifactError


@dataclass(frozen=True)
class Example:
    """A token on which a latent fires strongly, within its text."""

    before: str
    token: str
    after: str
    activation: float


@dataclass(frozen=True)
class Latent:
    """Strongest tokens of some text without labels, and tokens that the latent's decoder direction promotes."""

    top_tokens: tuple[str, ...]
    promotes: tuple[str, ...]
    examples: tuple[Example, ...]


def latent(latents: Any, feature_id: int | None) -> Latent | None:
    """What is known about a latent, None where nothing is. latents: what the file holds, whatever that is.

    Raises ArtifactError, naming the place, where it is not what `groundwire train detector` writes.
    """
    place = f"features.json: {feature_id}"
    found = _object(latents, "features.json").get(str(feature_id))
    if found is None:
        return None
    fields = _object(found, place)
    examples = fields.get("examples")
    if not isinstance(examples, list):
        raise _wrong(f"{place}: examples", examples, "a list")
    return Latent(
        tuple(_texts(fields.get("top_tokens"), f"{place}: top_tokens")),
        tuple(_texts(fields.get("promotes"), f"{place}: promotes")),
        tuple(_example(item, f"{place}: examples[{i}]") for i, item in enumerate(examples)),
    )


def _example(value: Any, place: str) -> Example:
    fields = _object(value, place)
    activation = fields.get("activation")
    if not isinstance(activation, int | float):
        raise _wrong(f"{place}: activation", activation, "a number")
    before, token, after = _texts([fields.get(name) for name in ("before", "token", "after")], place)
    return Example(before, token, after, float(activation))


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(place, value, "an object")
    return value


def _texts(value: Any, place: str) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(place, value, "texts")
    return value


def _wrong(place: str, value: object, expected: str) -> ArtifactError:
    return ArtifactError(
        f"{place} is {type(value).__name__} {value!r:.60}",
        expected=expected,
        remedy="restore the folder as `groundwire train detector` wrote it",
    )
