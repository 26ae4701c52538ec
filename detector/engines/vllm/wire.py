"""What goes between vLLM's front and its worker: which requests are to be followed, and what was found of them.

The wish travels with a request's sampling parameters (`extra_args`), so the worker needs no call to learn of it. The
findings come back as safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from groundwire.errors import InputError
from groundwire.scoring import Scorer
from groundwire.types import Readout

KEY = "groundwire"  # in a request's `extra_args`


@dataclass(frozen=True)
class Wish:
    """What is wanted of one request.

    key: the caller's own name of it; vLLM gives requests other ids. choices: answers to it (`n`).
    start: position of the first row; None for the first after the prompt. hold: rows held back until it is known that
    they belong to the answer: the newest (a step may run beyond the end), more where a stop string may take some away.
    replay: the answer is part of the prompt, and nothing follows it. keep: rows are folded at the end only, for it is
    not known yet which belong to the answer. features: hand back the features too. rows: hand back the residual rows
    themselves, and nothing else. running: a place for the score so far for each choice, none for none.
    linger: where the answer ends by length, have its last token read too (see `scheduler`).
    """

    key: str
    choices: int = 1
    start: int | None = None
    hold: int = 1
    replay: bool = False
    keep: bool = False
    features: bool = False
    rows: bool = False
    running: tuple[int, ...] = ()
    linger: bool = False

    def to_args(self) -> dict[str, Any]:
        """As `extra_args` hold it."""
        return {KEY: asdict(self) | {"running": list(self.running)}}

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Wish | None:
        """The wish in a request's `extra_args`; None where there is none. Raises InputError on a malformed one."""
        given = (extra_args or {}).get(KEY)
        if given is None:
            return None
        try:
            wish = cls(**{**given, "running": tuple(given.get("running", ()))})
            _check(wish)
        except (TypeError, AttributeError) as error:
            raise InputError(
                f"extra_args[{KEY!r}] of a request: {error}",
                expected="what `Wish.to_args` writes",
                remedy="leave it out: it is not for clients",
            ) from error
        return wish


@dataclass(frozen=True)
class Take:
    """Which rows of a followed choice make its answer: `count` of them after `skip`. choice: its number."""

    key: str
    choice: int
    count: int
    skip: int = 0


def pack(readout: Readout) -> bytes:
    """A readout as bytes, less its seconds."""
    tensors = {
        "contributions": readout.contributions,
        "peaks": readout.peaks,
        "token_logits": readout.token_logits,
        "mean_features": readout.mean_features,
        "finite": torch.tensor(readout.finite),
        **({} if readout.features is None else {"features": readout.features}),
    }
    return save({name: value.contiguous() for name, value in tensors.items()})


def unpack(data: bytes, scorer: Scorer, *, forward: float = 0.0, check: float = 0.0) -> Readout:
    """The readout in `data`, with the logit that `scorer` gives it: its intercept may be shifted to another share."""
    found = load(data)
    contributions = found["contributions"]
    return Readout(
        rows=len(found["token_logits"]),
        logit=scorer.intercept + float(contributions.sum()),
        contributions=contributions,
        peaks=found["peaks"],
        token_logits=found["token_logits"],
        mean_features=found["mean_features"],
        finite=bool(found["finite"]),
        forward_seconds=forward,
        check_seconds=check,
        features=found.get("features"),
    )


def pack_rows(rows: Float[Tensor, "tokens d"]) -> bytes:
    """Residual rows as bytes."""
    return save({"rows": rows.contiguous()})


def unpack_rows(data: bytes) -> Float[Tensor, "tokens d"]:
    """The rows in `data`."""
    return load(data)["rows"]


def _check(wish: Wish) -> None:
    kinds = {"key": str, "choices": int, "hold": int}
    for name, kind in kinds.items():
        if not isinstance(getattr(wish, name), kind):
            raise TypeError(f"{name} is {getattr(wish, name)!r}")
    if wish.start is not None and not isinstance(wish.start, int):
        raise TypeError(f"start is {wish.start!r}")
    if wish.choices < 1 or wish.hold < 0 or (wish.start or 0) < 0:
        raise TypeError("a number below 0")
    if not all(isinstance(place, int) and place >= 0 for place in wish.running):
        raise TypeError(f"running is {wish.running!r}")
