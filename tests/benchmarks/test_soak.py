"""The soak: what it calls wrong, and one short run over a real server process with the fake engine."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
NUMBER, OTHER = "K0000000", "K0007919"
TEXT = f"The bridge {NUMBER} opened."


@pytest.fixture
def soak(script):
    return script("soak")


@pytest.fixture
def pairing(script):
    return script("pairing")


@pytest.fixture
def verdict(pairing):
    evidence = {"passage_id": NUMBER, "text": pairing.passages(NUMBER)[0]["text"]}
    return {
        "status": "checked",
        "reason": None,
        "tokens": [{"token": TEXT[:10], "start": 0, "end": 10}, {"token": TEXT[10:], "start": 10, "end": len(TEXT)}],
        "spans": [{"start": 4, "end": 10, "text": "bridge", "evidence": evidence}],
    }


@pytest.fixture
def unpaired(pairing):
    return lambda text, verdict: list(pairing.unpaired(NUMBER, text, verdict, {NUMBER, OTHER}))


def test_an_answer_with_its_own_verdict_is_fine(unpaired, verdict):
    assert unpaired(TEXT, verdict) == []
    assert unpaired(f"{TEXT} K1234567", {"status": "not_checked", "reason": "abstained"}) == []  # nobody's number


@pytest.mark.parametrize(
    ("path", "value", "wrong"),
    [
        (("tokens", 0, "token"), "The Bridge", "tokens"),
        (("tokens", 1, "end"), len(TEXT) - 1, "tokens"),
        (("tokens",), [], "tokens"),
        (("spans", 0, "start"), 3, "span"),
        (("spans", 0, "evidence", "passage_id"), OTHER, "evidence"),
        (("spans", 0, "evidence", "text"), "no such text", "evidence"),
    ],
)
def test_anothers_verdict_is_seen(unpaired, verdict, path, value, wrong):
    verdict = copy.deepcopy(verdict)
    place = verdict
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    found = unpaired(TEXT, verdict)
    assert len(found) == 1
    assert wrong in found[0]


def test_anothers_answer_is_seen(unpaired):
    found = unpaired(f"The bridge {OTHER}", {"status": "not_checked", "reason": "abstained"})
    assert found == [f"{NUMBER}: the answer holds {OTHER}"]


def test_numbers_are_unique(pairing):
    tally = pairing.Tally()
    assert len({tally.number() for _ in range(5000)}) == 5000
    assert NUMBER in tally.issued
    assert OTHER in tally.issued


def test_what_fails_a_soak(soak):
    held = {"active": 0, "tasks": 2}
    fine = {
        "crowd": {"statuses": {"200": 5, "429": 3}, "checked": {"checked": 5}, "growth": 0.01, "problems": []},
        "leavers": {"statuses": {"200": 2}, "before": held, "after": dict(held)},
    }
    assert soak.failures(fine) == []
    bad = copy.deepcopy(fine)
    bad["crowd"] |= {"statuses": {"200": 5, "500": 1}, "growth": 0.5, "checked": {}, "problems": ["pair"]}
    bad["leavers"] |= {"statuses": {"ReadError": 1}, "after": {"active": 1, "tasks": 2}}
    assert soak.failures(bad) == [
        "1 times 500",
        "1 times ReadError",
        "memory grew by 50.0%",
        "no answer was checked",
        "pair",
        "active: 0 before, 1 after",
    ]


def test_a_short_soak_of_a_real_server(tmp_path):
    target = tmp_path / "soak.json"
    size = ["--clients", "40", "--seconds", "4", "--disconnects", "30", "--max-queue", "4"]
    command = [sys.executable, FOLDER / "soak.py", "--fake", *size, "-o", target]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["failures"] == []
    statuses = found["soak"]["crowd"]["statuses"]
    assert set(statuses) == {"200", "429"}  # the queue was full at times, and nothing else went wrong
    assert found["soak"]["crowd"]["answers"] == statuses["200"]
    assert found["soak"]["crowd"]["hold_their_number"] > statuses["200"] / 4  # answers to /v1/detect all do
    assert found["soak"]["leavers"]["statuses"] == {"200": 36}
    assert found["soak"]["leavers"]["after"]["active"] == 0
    assert len(found["tables"]["soak"]) == len(found["tables"]["soak-disconnects"]) == 1
