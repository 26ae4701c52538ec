"""A detector as plain values: what the one who hands out work must know of a detector that is loaded elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundwire.batch.features_file import about_features
from groundwire.batch.identity import detector_identity
from groundwire.batch.unit import BatchDetector
from groundwire.batch.units import CHARACTERS


@dataclass(frozen=True)
class Described:
    """threshold: its own. identity: by which runs are told apart. features: what a file of its activations says of it.
    characters: distinct ones of a unit; an engine that batches by itself wants more at once than what one pass reads.

    features is None for a detector without terms.
    """

    threshold: float
    identity: Mapping[str, Any]
    features: Mapping[str, Any] | None = None
    characters: int = CHARACTERS

    @classmethod
    def of(cls, detector: BatchDetector) -> Described:
        """What there is to say of a detector."""
        artifact = getattr(getattr(detector, "checking", None) or detector, "artifact", None)  # whose terms they are
        features = about_features(artifact) if hasattr(artifact, "terms") else None
        characters = getattr(getattr(detector, "engine", None), "unit_characters", CHARACTERS)
        return cls(detector.threshold, detector_identity(detector), features, characters)
