"""Groundwire: whether a language model's answer stays with the passages it was given, which characters do not, and why.

The public names below are the whole promise; each is loaded when it is first used, so `import groundwire` is instant
and does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundwire.detector import Detector
    from groundwire.errors import GroundwireError
    from groundwire.guard import Guard
    from groundwire.sae import load_dictionary
    from groundwire.types import Detection, Example, Passage, Request, Sampling, Span, Verdict

    __version__: str

__all__ = [
    "Detection",
    "Detector",
    "Example",
    "GroundwireError",
    "Guard",
    "Passage",
    "Request",
    "Sampling",
    "Span",
    "Verdict",
    "__version__",
    "load_dictionary",
]

_HOMES = {
    "Detector": "groundwire.detector",
    "GroundwireError": "groundwire.errors",
    "Guard": "groundwire.guard",
    "load_dictionary": "groundwire.sae",
} | dict.fromkeys(("Detection", "Example", "Passage", "Request", "Sampling", "Span", "Verdict"), "groundwire.types")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = import_module("importlib.metadata").version("groundwire")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
