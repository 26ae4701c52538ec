"""How a process that has no detector makes one: plain values that can be sent to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from groundwire.batch.unit import BatchDetector
from groundwire.types import Reading

if TYPE_CHECKING:
    from groundwire.artifact import Artifact
    from groundwire.engines.base import Engine

Load = Callable[[], BatchDetector]  # a function of a module, or a `Recipe`: whatever another process can import


@dataclass(frozen=True)
class Recipe:
    """A detector before it is loaded; the arguments are those of `Detector.from_pretrained`. Calling it loads one.

    engine: "transformers" or "vllm". engine_options: of `VllmEngine.open`, by name.
    """

    artifact: str | None = None
    model: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    threshold: float | None = None
    prevalence: float | None = None
    reading: Reading | None = None
    engine: str = "transformers"
    engine_options: tuple[tuple[str, Any], ...] = ()

    def __call__(self) -> BatchDetector:
        return self.load()

    def load(self) -> BatchDetector:
        """Load it. Raises what `Detector.from_pretrained` raises."""
        from groundwire.detector import Detector

        return Detector.from_pretrained(
            self.artifact,
            model=self.model,
            engine=self._vllm() if self.engine == "vllm" else None,
            device=self.device,
            dtype=self.dtype,
            threshold=self.threshold,
            prevalence=self.prevalence,
            reading=self.reading,
        )

    def _vllm(self) -> Engine:
        from groundwire.engines.vllm.engine import VllmEngine

        return VllmEngine.open(self.artifact, model=self.model, **{"dtype": self.dtype, **dict(self.engine_options)})

    def shared(self) -> BatchDetector:
        """As `load`, but a process that asks for the same one again gets the one it has."""
        return _shared(self)

    def on_worker(self, number: int) -> Recipe:
        """The recipe for the worker with that number, from 0: where the device is "cuda", each takes the next GPU."""
        if self.device != "cuda":
            return self
        import torch

        return replace(self, device=f"cuda:{number % max(1, torch.cuda.device_count())}")

    def read_artifact(self) -> Artifact:
        """The artifact alone, without its model. Raises ArtifactError where it cannot be read."""
        from groundwire.artifact import Artifact
        from groundwire.detector import DEFAULT_ARTIFACT

        found = Artifact.of_detector(self.artifact or DEFAULT_ARTIFACT)
        return found if self.prevalence is None else found.at_prevalence(self.prevalence)

    def read_threshold(self) -> float:
        """The score above which the detector will flag. Raises ArtifactError where the artifact cannot be read."""
        from groundwire.calibration import threshold_for
        from groundwire.detector import DEFAULT_TARGET

        if self.threshold is not None:
            return self.threshold
        found = self.read_artifact()
        own = self.reading == "own" or self.engine != "transformers"
        judging = found if own else found.checking or found
        return threshold_for(judging.thresholds, DEFAULT_TARGET)


@lru_cache(maxsize=1)  # a process that serves several detectors in turn holds one model at a time
def _shared(recipe: Recipe) -> BatchDetector:
    return recipe.load()


def limit_threads(threads: int | None) -> None:
    """Let torch use at most so many threads in this process; None leaves it as it is."""
    if threads is not None:
        import torch

        torch.set_num_threads(max(1, min(threads, torch.get_num_threads())))
