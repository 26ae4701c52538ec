from __future__ import annotations

import subprocess
import sys

import pytest

from groundwire.memory import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from groundwire.memory import keep_freed_memory
changed = keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(4_000_000)
before = faults()
for _ in range(20):
    np.ones(4_000_000)
print(changed, (faults() - before) > 20_000)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is meant")
@pytest.mark.parametrize(("environment", "expected"), [({}, "True False"), ({"MALLOC_TRIM_THRESHOLD_": "1"}, "False")])
def test_large_arrays_are_taken_from_memory_that_is_there(environment: dict[str, str], expected: str) -> None:
    run = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.startswith(expected)


def test_what_the_user_said_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
    assert not keep_freed_memory()
