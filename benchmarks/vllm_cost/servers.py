"""Two vLLM servers that differ in one thing: one is stock, the other gives verdicts. And what they take of memory."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from vllm_cost.streams import OFF, ON

START = 1800.0  # seconds that a server may take to load and compile
GPU_CACHE, CPU_CACHE = 4 << 30, 1 << 30  # bytes
LOG = 6000  # characters of a server's log that are shown
CONTEXT = 4096
GPU_SHARE = 0.45


@dataclass(frozen=True)
class Server:
    """A running server, in a session of its own. model: as it calls it."""

    url: str
    model: str
    process: subprocess.Popen[bytes]

    @property
    def resident(self) -> int:
        """Resident memory of all of its processes, in bytes."""
        return sum(_resident(stat) for stat in Path("/proc").glob("[0-9]*/stat") if _session(stat) == self.process.pid)

    @property
    def version(self) -> str:
        """Of vLLM."""
        return httpx.get(f"{self.url}/version", timeout=60).json()["version"]


def flags(given: Sequence[str], *, gpu: bool, eager: bool) -> list[str]:
    """vLLM's flags for both servers: those given, each perhaps with its value. Where they say nothing of it: what lets
    two servers run side by side with the same cache, and on a CPU float32, as few CPUs are fast in anything else."""
    found = [part for flag in given for part in shlex.split(flag)]
    names = {part.partition("=")[0].replace("_", "-") for part in found}
    if "--max-model-len" not in names:
        found += ["--max-model-len", str(CONTEXT)]
    if not names & {"--kv-cache-memory-bytes", "--gpu-memory-utilization"}:
        found += ["--kv-cache-memory-bytes", str(GPU_CACHE if gpu else CPU_CACHE)]
    if not gpu and "--dtype" not in names:
        found += ["--dtype", "float32"]
    if gpu and "--gpu-memory-utilization" not in names:
        found += ["--gpu-memory-utilization", str(GPU_SHARE)]  # vLLM wants so much to be free when it starts
    return [*found, *(["--enforce-eager"] if eager and "--enforce-eager" not in names else [])]


def commands(model: str, flags: Sequence[str], detector: str | None) -> dict[str, list[str]]:
    """Both servers' command lines, less the port."""
    named = ["--detector", detector] if detector else []
    return {
        ON: [sys.executable, "-m", "groundwire", "serve", "--engine", "vllm", model, *named, *flags],
        OFF: [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, *flags],
    }


def environment(side: str, given: Mapping[str, str]) -> dict[str, str]:
    """A server's environment: nothing of ours in the stock one's."""
    if side == ON:
        return dict(given)
    found = {name: value for name, value in given.items() if not name.startswith("GROUNDWIRE_")}
    if "VLLM_PLUGINS" in found:
        found["VLLM_PLUGINS"] = ",".join(name for name in found["VLLM_PLUGINS"].split(",") if name != "groundwire")
    return found


@contextmanager
def running(side: str, command: Sequence[str], folder: Path) -> Iterator[Server]:
    """A server until the block ends. Raises RuntimeError where it does not start; whatever is raised meanwhile is
    raised with the end of its log."""
    port, log = _port(), folder / f"{side}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=out,
            stderr=out,
            env=environment(side, os.environ),
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        if not _started(process, url):
            raise RuntimeError(f"the server ({side}) did not start")
        yield Server(url, httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"], process)
    except Exception as error:
        error.add_note(f"What the server ({side}) printed last:\n{log.read_text(errors='replace')[-LOG:]}")
        raise
    finally:
        _stop(process)


def gpu_bytes() -> int | None:
    """GPU memory in use, of all GPUs together; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(int(line) << 20 for line in subprocess.check_output(command, text=True).split())


def _started(process: subprocess.Popen[bytes], url: str) -> bool:
    deadline = time.monotonic() + START
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return True
        time.sleep(0.5)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of it
    process.wait()


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _session(stat: Path) -> int | None:
    """The session of a process, from its file in /proc; None where it is gone."""
    try:
        return int(stat.read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None


def _resident(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[21]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
