"""What every adapter asks of a guard."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys

import pytest

from groundwire import Guard
from groundwire.engines.fake import fake_detector
from groundwire.integrations.checking import averdict_on, verdict_on

LIBRARIES = ("langchain", "langchain_core", "langchain_openai", "llama_index", "haystack", "litellm", "openai")


def test_a_verdict_on_an_answer() -> None:
    guard = Guard(fake_detector())
    good = verdict_on(guard, "Who?", ["The builder came from Lisbon."], "The builder")
    bad = asyncio.run(averdict_on(guard, "Who?", ["The builder came from Lisbon."], "A king"))
    assert (good.flagged, bad.flagged) == (False, True)


def test_what_breaks_is_not_checked(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(fake_detector())
    with caplog.at_level(logging.WARNING):
        verdicts = [verdict_on(guard, "Who?", [3], "x"), asyncio.run(averdict_on(guard, "Who?", ["x"], 3))]
    assert [verdict.detection.reason for verdict in verdicts] == ["invalid_input", "invalid_input"]
    assert len(caplog.records) == 2


def test_importing_groundwire_and_this_package_loads_no_framework() -> None:
    code = (
        "import sys, groundwire, groundwire.integrations, groundwire.integrations.checking, groundwire.guard\n"
        f"print([name for name in {LIBRARIES} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.stdout == "[]\n", run.stderr


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("langchain", "langchain", "langchain"),
        ("chat_groundwire", "langchain_openai", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("litellm", "litellm", "litellm"),
    ],
)
def test_a_missing_framework_names_the_line_that_installs_it(module: str, library: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "from groundwire.errors import MissingExtra\n"
        f"try: import groundwire.integrations.{module}\n"
        "except MissingExtra as error: print(error.remedy)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert run.stdout == f'pip install "groundwire[{extra}]"\n', run.stderr
