"""docs/vllm.md says what the code says: commands, releases, what is refused, which settings are vLLM's own."""

from __future__ import annotations

import re
from pathlib import Path

from groundwire.batch.command import score
from groundwire.engines.vllm.refusals import TESTED
from groundwire.engines.vllm.slots import ROOM, SPARE
from groundwire.engines.vllm.worker import WORKER
from groundwire.server.vllm.fit import FLAG
from groundwire.server.vllm.plugin import PATHS, Plugin

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")


def test_the_commands_are_those_of_the_code():
    assert FLAG in TEXT
    assert f"--worker-cls {WORKER}" == FLAG
    assert f"VLLM_PLUGINS={Plugin.name}" in TEXT
    for path in PATHS:
        assert f"`{path}`" in TEXT


def test_the_tested_releases_are_named():
    assert all(f"vLLM {release}" in TEXT for release in TESTED)
    assert f'"vllm=={TESTED[-1].rpartition(".")[0]}.*"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_what_is_refused_is_listed():
    for flag in (
        "--pipeline-parallel-size",
        "--data-parallel-size",
        "--speculative-config",
        "--kv-sharing-fast-prefill",
    ):
        assert f"`{flag}`" in TEXT


def test_options_of_score_that_it_names_exist():
    known = {name for parameter in score.params for name in parameter.opts}
    (block,) = re.findall(r"^groundwire score .*$", TEXT, re.M)
    assert set(re.findall(r"--[a-z-]+", block)) <= known


def test_numbers_are_those_of_the_code():
    assert f"every {ROOM} steps" in TEXT
    assert f"{SPARE} answers wait" in TEXT


def test_the_tests_it_names_exist():
    for name in set(re.findall(r"`(test_\w+\.py)`", TEXT)):
        assert list((ROOT / "tests").rglob(name)), name
