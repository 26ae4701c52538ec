"""What a run is: all that its output depends on besides the input. Two runs that differ in it share no output file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from hashlib import sha256
from typing import Any

from groundwire import __version__
from groundwire.batch import units, windows
from groundwire.batch.columns import Columns
from groundwire.batch.unit import Options

FORMAT = 1
UNREAD = ("about", "card", "latents")  # parts of an artifact that are for people
ABSENT = "none"


def detector_identity(detector: Any) -> dict[str, Any]:
    """What of a detector its verdicts depend on. It need not have any of what is asked of it."""
    artifact, engine = getattr(detector, "artifact", None), getattr(detector, "engine", None)
    found = {
        "id": str(getattr(detector, "id", type(detector).__name__)),
        "version": getattr(artifact, "version", None),
        "sha256": digest(artifact) if is_dataclass(artifact) else None,
        "model": getattr(engine, "model_id", None),
        "fingerprint": dict(getattr(engine, "fingerprint", {})),
        "dtype": getattr(engine, "dtype", None),
    }
    return found | ({"reading": "checking"} if getattr(detector, "checking", None) is not None else {})


def identity(detector: Any, options: Options, columns: Columns, source: Sequence[str]) -> dict[str, Any]:
    """What is written first in OUT.run, as JSON can hold it. detector: one, or a description with its `identity`."""
    about = {
        "format": FORMAT,
        "groundwire": __version__,
        "detector": dict(getattr(detector, "identity", None) or detector_identity(detector)),
        "options": asdict(options),
        "columns": columns.given,
        "plan": {
            "window": [windows.ROWS, windows.CHARACTERS],
            "unit": [getattr(detector, "characters", units.CHARACTERS), units.PROMPT_ROWS, units.ROWS],
        },
        "input": list(source),  # for people: what was read is known by its content
    }
    found: dict[str, Any] = json.loads(json.dumps(about))
    return found


def differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    one, other = _flat(now), _flat(before)
    names = [name for name in {**one, **other} if one.get(name, ABSENT) != other.get(name, ABSENT)]
    return [f"{name} is {_shown(one.get(name, ABSENT))} and was {_shown(other.get(name, ABSENT))}" for name in names]


def digest(value: Any) -> str:
    """SHA-256 of what a dataclass holds: tensors, numbers, texts, and more of these in containers."""
    found = sha256()
    for part in _parts(value):
        found.update(b"%d:" % len(part))
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if is_dataclass(value):
        for field in fields(value):
            if field.name not in UNREAD:
                yield field.name.encode()
                yield from _parts(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name).encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield b"%d" % len(value)
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "detach"):
        import torch  # it is loaded where there are tensors

        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    else:
        yield repr(value).encode()


def _flat(about: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in about.items():
        if within or name not in ("input", "replaces"):
            found |= _flat(value, f"{within}{name} ") if isinstance(value, Mapping) else {f"{within}{name}": value}
    return found


def _shown(value: object) -> str:
    return ABSENT if value is None else f"{value}"[:60]
