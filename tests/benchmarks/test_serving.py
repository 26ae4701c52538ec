"""The benchmark of the endpoint: its measures, and one short run over a real server process with the fake engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def serving(script):
    return script("serving")


@pytest.fixture
def answer(serving):
    def make(sent, texts, finished, *, tokens=None, finish_reason="stop"):
        return serving.Answer(sent, tuple(texts), finished, tokens or len(texts), finish_reason)

    return make


def test_throughput_counts_all_clients_over_all_of_the_time(serving, answer):
    answers = [answer(0.0, [1, 2, 3, 4], 5.0), answer(1.0, [2, 3, 4], 8.0)]
    assert serving.throughput(answers) == 7 / 8


def test_decoding_counts_while_every_client_is_receiving(serving, answer):
    together = [answer(0, [1, 2, 3, 4, 5], 6), answer(0, [2, 3, 4], 5, tokens=6)]
    # From 2 to 4: two texts of one token each, and two of two each.
    assert serving.decoding(together) == (2 + 4) / 2
    assert serving.decoding([answer(0, [1, 2], 3), answer(0, [4, 5], 6)]) is None


def test_ratios_are_of_pairs_and_the_middle_one_is_told(serving, answer):
    def at(speed):
        return [answer(0, [1, 2], 2 / speed)]

    pairs = [(at(9), at(10)), (at(5), at(10)), (at(99), at(100))]
    found = serving.compared(pairs, serving.throughput)
    assert found["ratio"] == pytest.approx(0.9)
    assert found["range"] == pytest.approx([0.5, 0.99])
    assert (found["on"], found["off"], found["pairs"]) == (pytest.approx(9), pytest.approx(10), 3)
    apart = [answer(0, [1, 2], 3), answer(0, [4, 5], 6)]
    assert serving.compared([(apart, apart)], serving.decoding)["ratio"] is None


def test_the_verdict_is_timed_against_the_same_answer_without_a_check(serving, answer):
    on, off = answer(0, [1, 2, 3], 4.5), answer(0, [1, 2, 3], 4.0)
    cut = answer(0, [1, 2, 3], 3.0, finish_reason="length")
    assert serving.ended([([on, on], [off, cut]), ([cut], [cut])], "stop") == [(on, off)]
    found = serving._verdict(1, "stop", [(on, off)])
    assert found["added_ms"] == 500
    assert (found["end_on_ms"], found["end_off_ms"], found["gap_ms"]) == (1500, 1000, 1000)


def test_a_short_run_over_a_real_server(tmp_path, serving):
    target = tmp_path / "serving.json"
    command = [sys.executable, FOLDER / "serving.py", "--fake", "--runs", "2", "--tokens", "12", "--clients", "1", "2"]
    run = subprocess.run([*command, "-o", target], capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    found = json.loads(target.read_text(encoding="utf-8"))
    assert [row["clients"] for row in found["tables"]["serving"]] == [1, 2]
    assert all(row["ratio"] > 0 for row in found["tables"]["serving"])
    assert [row["clients"] for row in found["tables"]["serving-verdict"]] == [1, 2]
    # Two runs of three checked answers for each client.
    assert found["serving"]["answers_checked"] == 18
    assert found["serving"]["check_ms_per_answer"] > 0
