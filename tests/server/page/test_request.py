"""The requests that the page shows are run as they stand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector
from groundwire.server.auth import hash_key
from groundwire.server.settings import Settings

QUESTION = """It's "$HOME" `id` \\ EOF
EOF 🌉?"""
ANSWER = "The bridge is called Zorn."
KEY = "a-key"


@pytest.fixture(params=["#ask", "#check"])
def shown(request: pytest.FixtureRequest, opened: Callable[..., Any], tab: Any) -> Any:
    """The page after a request to a server with a key, of both kinds."""
    opened(settings=Settings(api_keys=(hash_key(KEY),)), detector=fake_detector({QUESTION: ANSWER}))
    tab.fill("#question", QUESTION)
    tab.fill("#answer", ANSWER)
    tab.fill("#key", KEY)
    tab.click(request.param)
    tab.wait("document.querySelector('#verdict .score')")
    return tab


def run(command: list[str]) -> str:
    environment = {**os.environ, "GROUNDWIRE_API_KEY": KEY, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python(shown):
    said = run([sys.executable, "-c", shown.js("document.querySelector('#python').textContent")])
    assert "Zorn" in said
    assert "'flagged': True" in said


def test_curl(shown):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    said = run(["sh", "-c", shown.js("document.querySelector('#curl').textContent")])
    if said.startswith("data:"):
        chunks = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == ANSWER
        found = chunks[-1]["choices"][0]["hallucination"]
    else:
        found = json.loads(said)["hallucination"]
    assert found["flagged"] is True
    assert f"{found['score']:.2f}" == shown.text("#verdict .score b")


def test_the_key_is_in_neither(shown):
    for one in ("curl", "python"):
        text = shown.js(f"document.querySelector('#{one}').textContent")
        assert KEY not in text
        assert "GROUNDWIRE_API_KEY" in text


def test_it_is_copied(shown):
    shown.click("[data-copies=curl]")
    shown.wait("/^(Copied|Selected)/.test(document.querySelector('#status').textContent)")
    if shown.text("#status") == "Copied.":
        return
    selected = shown.js("getSelection().toString()")
    assert selected.strip() == shown.js("document.querySelector('#curl').textContent").strip()
