from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, resource, runpy, sys
from pathlib import Path
from groundwire.batch.score import score_file
from groundwire.engines.fake import fake_detector

rows, folder = int(sys.argv[1]), Path(sys.argv[2])
with open(folder / "in.jsonl", "w") as file:
    for i in range(rows):
        prompt = f"The bridge {i // 4 % 100} opened in 1931. " + "It is long. " * 10
        file.write(json.dumps({"id": i, "prompt": prompt, "response": "In 1931."}) + "\\n")
detector = runpy.run_path(sys.argv[3])["Remembering"](fake_detector())
assert score_file(detector, folder / "in.jsonl", folder / "out.jsonl", progress=False).checked == rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""
SLOW = Path(__file__).with_name("slow.py")


def peak(rows: int, folder: Path) -> int:
    """Peak memory of scoring so many rows, in a process of its own."""
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(rows), str(folder), str(SLOW)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_does_not_grow_with_rows(tmp_path):
    few, many = peak(1_000, tmp_path / "few"), peak(50_000, tmp_path / "many")
    assert many < 1.1 * few
