"""The real vLLM: its engine in this process's children, its server as users start it. `make test-vllm` runs these.

Where vLLM is not installed all of them skip. On a machine without a GPU the flags are those of its CPU build.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.conftest import CHAT_TEMPLATE, TINY_CONTEXT, VOCABULARY, _save, _tiny_tokenizer

CPU = not torch.cuda.is_available()
LIMITS = {"max_model_len": 2048, "max_num_seqs": 32, "kv_cache_memory_bytes": 1 << 30}
OPTIONS: dict[str, Any] = {"dtype": "float32", **LIMITS, **({"enforce_eager": True} if CPU else {})}
START = 300.0  # seconds that a server may take to start

PASSAGES = (
    "The lighthouse of Praia was finished in 1889 and is 41 metres high. It was built by Ana Dias, an engineer from "
    "Lisbon, and its lamp can be seen from 22 miles away.",
    "The keeper's log says that the lamp was lit for the first time on 3 March 1890, in heavy rain.",
)
QUESTIONS = (
    "Who built the lighthouse, and when was it finished?",
    "How high is the lighthouse?",
    "When was the lamp lit for the first time?",
    "From how far away can the lamp be seen?",
    "Tell all you know of the lighthouse, and of its keeper's family.",
)


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Skip where there is no vLLM."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: `make test-vllm` installs it")


def flags(options: dict[str, Any]) -> list[str]:
    """Options of `vllm.LLM` as flags of `vllm serve`."""
    found = []
    for name, value in options.items():
        found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


@dataclass(frozen=True)
class Server:
    """A running `vllm serve`, stock or ours. log: what it printed."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    @property
    def async_client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    @property
    def model(self) -> str:
        return self.client.models.list().data[0].id

    def rpc(self, method: str) -> Any:
        """A call to the worker, through vLLM's endpoint for developers."""
        answer = httpx.post(f"{self.url}/collective_rpc", json={"method": method}, timeout=60)
        return next(one for one in answer.raise_for_status().json()["results"] if one is not None)


def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def stock(model: str, *more: str) -> list[str]:
    """The command of an unmodified server."""
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, *flags(OPTIONS), *more]


def ours(*more: str) -> list[str]:
    """The command of ours; the model comes first in `more`, or there is none for the default."""
    return [sys.executable, "-m", "groundwire", "serve", "--engine", "vllm", *more, *flags(OPTIONS)]


@contextmanager
def running(command: Sequence[str], folder: Path, **environment: str) -> Iterator[Server]:
    """A server until the block ends. Fails, with what it printed, where it does not come up."""
    number, log = port(), folder / "server.log"
    env = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "VLLM_LOGGING_COLOR": "0", **environment}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(number)], stdout=out, stderr=out, env=env, cwd=folder, start_new_session=True
        )
    server = Server(f"http://127.0.0.1:{number}", process, log)
    try:
        _wait(server)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of it


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text(errors='replace')[-6000:]}")


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers that live until the session ends, one for each command."""
    with ExitStack() as stack:
        known: dict[tuple[Any, ...], Server] = {}

        def serve(command: Sequence[str], **environment: str) -> Server:
            key = (tuple(command), tuple(sorted(environment.items())))
            if key not in known:
                folder = tmp_path_factory.mktemp("server")
                known[key] = stack.enter_context(running(command, folder, **environment))
            return known[key]

        yield serve


@pytest.fixture(scope="session")
def default_folder() -> str:
    """The embedded model's folder."""
    from groundwire.fetch import ensure_model

    return str(ensure_model())


def messages(number: int) -> list[dict[str, str]]:
    """A grounded conversation; prompts differ in length."""
    passages = "\n\n".join(f"Passage {i}: {text}" for i, text in enumerate(PASSAGES * (1 + number % 4), 1))
    question = QUESTIONS[number % len(QUESTIONS)]
    return [{"role": "user", "content": f"Answer from the passages.\n\n{passages}\n\nQuestion {number}: {question}"}]


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Gemma-2 (d_model 64, 4 layers: sliding windows, soft caps, norms around each block)."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = _tiny_tokenizer(CHAT_TEMPLATE)
    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=64,
        max_position_embeddings=TINY_CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma2ForCausalLM(config)
    return _save(tmp_path_factory.mktemp("gemma") / "tiny-gemma2", model, tokenizer)
