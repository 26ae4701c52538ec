"""A real Groundwire server with the public fake detector, and LiteLLM's proxy in front of it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else LiteLLM asks the network when it is imported
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

ANSWERS = {
    "When was the tower built": "The lighthouse was built in 1889.",
    "When was the lighthouse built": "The lighthouse was built in 1931.",
}
# "closed" stands in for a model that LiteLLM calls elsewhere, "open" is Groundwire's own.
PROXY = """
model_list:
  - model_name: closed
    litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: "The lighthouse was built in 1931."}
  - model_name: open
    litellm_params: {model: openai/fake, api_key: none, api_base: SERVER/v1}
guardrails:
  - guardrail_name: monitor
    litellm_params:
      guardrail: groundwire.integrations.litellm.GroundwireGuardrail
      mode: post_call
      api_base: SERVER
  - guardrail_name: refuse
    litellm_params:
      guardrail: groundwire.integrations.litellm.GroundwireGuardrail
      mode: post_call
      policy: block
      api_base: SERVER
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The server's address, without a path. It knows the questions of ANSWERS."""
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from groundwire.engines.fake import fake_detector
    from groundwire.server.app import create_app
    from groundwire.server.settings import Settings

    port = free_port()
    app = create_app(Settings(), fake_detector(ANSWERS))
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def proxy(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """LiteLLM's proxy in a process of its own: takes the fields of a chat completion, gives the reply as it came."""
    pytest.importorskip("fastapi_sso", reason="litellm[proxy] is not installed")
    folder: Path = tmp_path_factory.mktemp("proxy")
    (folder / "config.yaml").write_text(PROXY.replace("SERVER", server_url))
    key = f"sk-{secrets.token_hex(32)}"  # the proxy refuses to start with an obvious one
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-c", "from litellm import run_server; run_server()", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--config", str(folder / "config.yaml")]
    environment = os.environ | {"LITELLM_MASTER_KEY": key}

    def ask(**body: Any) -> str:
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(reply.read().decode())

    with (folder / "log").open("wb") as log:
        run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)
        try:
            deadline = time.monotonic() + 120
            while not _answers(f"{url}/health/liveliness"):
                if run.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the proxy did not start:\n{(folder / 'log').read_text()[-3000:]}")
                time.sleep(0.2)
            yield ask
        finally:
            run.terminate()
            run.wait(30)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True
