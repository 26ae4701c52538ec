"""Long prompts: which rows are taken, which contexts, and what a line of the table says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from groundwire.engines.fake import fake_detector
from groundwire.training.data import LabelledExample

Script = Callable[[str], ModuleType]


@pytest.fixture
def long_prompts(script: Script) -> ModuleType:
    return script("long_prompts")


def row(group: str, label: int, words: int, response: str = "fact1") -> LabelledExample:
    text = "Summarize the document.\n\n" + " ".join(f"Fact{i} is so." for i in range(words)) + "\n\nSummary:"
    messages = [{"role": "user", "content": text}]
    return LabelledExample(
        "1", messages, response, label=label, spans=None, group=group, generator="unknown", dataset="made up"
    )


def test_the_longest_sources_are_taken_with_both_labels_in_turn(long_prompts: ModuleType) -> None:
    rows = [row("short", 0, 10)] + [row("long", int(i == 7), 30) for i in range(8)]
    (own,) = long_prompts.sources(rows, 1)
    assert {e.group for e in own} == {"long"}
    assert [e.label for e in own] == [0, 1, 0, 0]
    assert len(own) == long_prompts.ROWS


def test_rows_stand_where_they_needed_as_many_windows(long_prompts: ModuleType) -> None:
    detector = fake_detector()
    context = detector.engine.context
    own = [row("a", 0, 120, "fact1 fact119 fact60"), row("a", 1, 120, "fact1 nowhere")]
    assert set(long_prompts.contexts(detector, own)) == set(long_prompts.BINS)
    found = list(long_prompts.scored(detector, "set", own))
    assert {got.bin for got in found} == set(long_prompts.BINS)
    assert all(got.windowed == pytest.approx(got.whole) for got in found)  # a word of any window is known
    assert detector.engine.context == context


def test_a_line_counts_false_alarms_of_both_readings(long_prompts: ModuleType) -> None:
    scores = [(0, 0.2, 0.6), (0, 0.7, 0.8), (0, 0.1, 0.1), (0, 0.3, 0.2), (1, 0.8, 0.4), (1, 0.9, 0.9)]
    rows = [long_prompts.Scored("set", str(i), label, "2", *both) for i, (label, *both) in enumerate(scores)]
    found = long_prompts.line("set", "2", rows, 0.5)
    assert (found["rows"], found["faithful"]) == (6, 4)
    assert (found["AUC whole"], found["AUC in windows"]) == (1.0, 0.75)
    assert found["difference"] == pytest.approx(-0.25)
    assert (found["false alarms whole"], found["false alarms in windows"]) == (0.25, 0.5)
    assert (found["unfaithful flagged whole"], found["unfaithful flagged in windows"]) == (1.0, 0.5)
    low, high = found["false alarms, 95 % interval of the difference"]
    assert low == 0
    assert high == 0.75
    assert found["mean score shift"] == pytest.approx(0.0)


def test_an_interval_draws_whole_groups(long_prompts: ModuleType) -> None:
    values, groups = np.array([1.0, 1.0, 0.0, 0.0]), np.array(["a", "a", "b", "b"])
    assert long_prompts.mean_interval(values, groups) == [0.0, 1.0]
    assert long_prompts.mean_interval(np.ones(4), groups) == [1.0, 1.0]
