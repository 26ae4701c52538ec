"""A real `groundwire serve` in a process of its own, for benchmarks, and what the system says of that process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

# `groundwire serve` as it is; besides, SIGUSR1 makes it print how many tasks its event loop has, and how many workers
# that loop's pool of threads. The pool grows up to its bound as chance has it, so its workers are counted apart.
SERVE = """
import asyncio, signal, sys, threading
def count(*_):
    workers = sum(thread.name.startswith("asyncio_") for thread in threading.enumerate())
    print(len(asyncio.all_tasks()), workers, flush=True)
signal.signal(signal.SIGUSR1, count)
if sys.argv[1] == "fake":
    from groundwire.engines.fake import fake_detector
    from groundwire.server import app
    app.load_detector = lambda settings: fake_detector()
sys.argv = ["groundwire", "serve", *sys.argv[2:]]
from groundwire.cli import main
main()
"""
SAMPLE = re.compile(r"^(\w+(?:\{.*?\})?) (\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Served:
    """A running server. Its process is read in /proc, so this needs Linux."""

    url: str
    process: subprocess.Popen[str]

    @property
    def memory(self) -> int:
        """Resident memory in bytes."""
        return 1024 * self._status("VmRSS")

    def held(self) -> dict[str, int]:
        """What the process holds: its event loop's tasks, its threads less the loop's workers, its open files (sockets
        among them)."""
        self.process.send_signal(signal.SIGUSR1)
        tasks, workers = map(int, self._line().split())
        files = len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))
        return {"tasks": tasks, "threads": self._status("Threads") - workers, "files": files}

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by its name and labels as they are written there."""
        text = httpx.get(f"{self.url}/metrics", timeout=60).text
        return {name: float(value) for name, value in SAMPLE.findall(text)}

    def _line(self) -> str:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise RuntimeError("the server is gone")
        return line

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(text.partition(f"{name}:")[2].split()[0])


@contextmanager
def serve(*flags: str, fake: bool = False) -> Iterator[Served]:
    """A server on a free port until the block ends. fake: over the public fake engine instead of the default model.

    Raises RuntimeError, with the end of its log, where it does not start.
    """
    command = [sys.executable, "-c", SERVE, "fake" if fake else "real", "--port", "0", "--log-level", "warning"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            found = re.search(r"(http://\S+)/v1", process.stdout.readline() if process.stdout else "")
            if not found:
                process.wait(60)
                log.seek(0)
                raise RuntimeError(f"the server did not start: {log.read()[-2000:]}")
            yield Served(found[1], process)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout:
                process.stdout.close()
