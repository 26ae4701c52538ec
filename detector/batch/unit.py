"""The piece of work that every runner shares: some rows go to a detector together, what is to be written comes back.

Whoever runs a unit (this process, another, another machine) calls `score_unit`, so the same rows give the same result.
What a unit holds decides which answers share a forward pass; it never depends on who runs it, nor on what ran before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from groundwire.errors import GroundwireError
from groundwire.guard import decide
from groundwire.types import Detection, Example

TOP_TERMS = 5
PROBE = Example("probe", [{"role": "user", "content": "The tower is tall. How tall is it?"}], "It is tall.")


@runtime_checkable
class BatchDetector(Protocol):
    """What batch scoring needs of a detector; see `groundwire.Detector`."""

    threshold: float

    @property
    def tokens_read(self) -> int: ...

    def score_batch(
        self, examples: Sequence[Example], *, features: bool = False, passage_windows: bool = False
    ) -> list[Detection]: ...


@dataclass(frozen=True)
class Options:
    """What is written of each row.

    threshold: rows with a score above it are flagged. tokens: the score of every token too. top_terms: contributions
    listed. passage_windows: prompts beyond the model's context are scored in windows of their passages; else they are
    not checked. features: activations of the detector's terms, per "response" (mean and maximum over its tokens) or per
    "token"; None for none.
    """

    threshold: float
    tokens: bool = False
    top_terms: int = TOP_TERMS
    passage_windows: bool = True
    features: Literal["response", "token"] | None = None


@dataclass(frozen=True)
class Unit:
    """Examples to be scored together. places: of each, which row of the input it is, from 0. number: of the unit."""

    number: int
    places: tuple[int, ...]
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Scored:
    """A unit's outcome, in the order of its examples: plain values that can be sent between processes.

    verdicts: what stands under "hallucination", for each. tokens: read by the model, each distinct prompt once.
    seconds: wall time. features: where asked for and checked, `[2, terms]` (mean, maximum) or `[tokens, terms]`,
    float32.
    """

    unit: Unit
    verdicts: list[dict[str, Any]]
    tokens: int
    seconds: float
    features: list[Float[np.ndarray, "_ terms"] | None] = field(default_factory=list)


def score_unit(detector: BatchDetector, unit: Unit, options: Options) -> Scored:
    """Score a unit. Where the detector fails, its rows are tried one by one, and those that fail are not checked.

    Raises what the detector raises where it fails with everything, and GroundwireError as it comes.
    """
    start, before = perf_counter(), detector.tokens_read
    try:
        found = _detections(detector, unit.examples, options)
    except GroundwireError:
        raise
    except Exception:
        detector.score_batch([PROBE])  # fails as well where rows are not to blame: then the run ends here
        found = [_alone(detector, example, options) for example in unit.examples]
    verdicts = [
        decide(detection, options.threshold, action="annotate").to_dict(
            top_terms=options.top_terms, tokens=options.tokens
        )
        for detection in found
    ]
    features = [_features(detection, options) for detection in found] if options.features else []
    return Scored(unit, verdicts, detector.tokens_read - before, perf_counter() - start, features)


def _detections(detector: BatchDetector, examples: Sequence[Example], options: Options) -> list[Detection]:
    wanted = options.features is not None
    return detector.score_batch(examples, features=wanted, passage_windows=options.passage_windows)


def _alone(detector: BatchDetector, example: Example, options: Options) -> Detection:
    try:
        return _detections(detector, [example], options)[0]
    except Exception as error:  # out of memory, most likely: the message is the library's own
        return Detection("not_checked", "capture_failed", detail=f"{type(error).__name__}: {error}"[:500])


def _features(detection: Detection, options: Options) -> np.ndarray | None:
    if detection.features is None or not len(detection.features):
        return None
    rows: np.ndarray = detection.features.float().cpu().numpy()
    return rows if options.features == "token" else np.stack([rows.mean(0), rows.max(0)])


@runtime_checkable
class Runner(Protocol):
    """Runs units somewhere. A context manager: what it starts, it ends."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        """Outcomes of all units, each as soon as it is there, in any order. Called again for further units.

        Units are taken from the iterable as they are needed. Raises GroundwireError where a unit cannot be run.
        """
        ...


class LocalRunner:
    """Runs units in this process, one after the other."""

    def __init__(self, detector: BatchDetector, options: Options) -> None:
        self.detector, self.options = detector, options

    def __enter__(self) -> LocalRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        """See `Runner.run`."""
        for unit in units:
            yield score_unit(self.detector, unit, self.options)
