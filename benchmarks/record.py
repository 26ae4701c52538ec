"""Result files: what was run, where, with which versions, and what it gave."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("groundwire", "torch", "transformers", "numpy", "interpret-core", "scikit-learn")


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write `figures` with the command line, the versions of the libraries there are and the kind of machine."""
    run = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "machine": f"{platform.machine()}, {_threads()} torch threads",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**run, **figures}, indent=1) + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _threads() -> int:
    import torch

    return torch.get_num_threads()
