"""Scores so far, in a file that two processes share."""

from __future__ import annotations

import subprocess
import sys

import pytest

from groundwire.engines.vllm.running import BLOCK, BLOCKS, RunningBlock, RunningFile, tag
from groundwire.errors import InputError


@pytest.fixture
def file():
    found = RunningFile()
    yield found
    found.close()


def test_another_process_reads_what_is_written(file):
    block = RunningBlock(file.path, file.block())
    (place,) = block.lend(1)
    file.write(place, tag("key"), 3, 1.25)
    code = (
        "from groundwire.engines.vllm.running import RunningBlock, tag\n"
        f"print(RunningBlock({str(file.path)!r}, 0).read({place}, tag('key')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1.25\n"


def test_an_answer_is_never_told_anothers_score(file):
    block = RunningBlock(file.path, file.block())
    (place,) = block.lend(1)
    file.write(place, tag("one"), 3, 1.0)
    block.give_back([place])
    assert block.lend(1) == (place,)
    assert block.read(place, tag("two")) is None
    file.write(place, tag("two"), 1, 2.0)
    assert block.read(place, tag("two")) == 2.0
    assert block.read(place, tag("one")) is None


def test_each_front_process_has_places_of_its_own(file):
    one, two = (RunningBlock(file.path, file.block()) for _ in range(2))
    assert set(one.lend(BLOCK)).isdisjoint(two.lend(BLOCK))
    assert one.lend(1) == ()
    for _ in range(BLOCKS - 2):
        file.block()
    with pytest.raises(InputError, match="--api-server-count"):
        file.block()


def test_a_place_beyond_the_end_is_ignored(file):
    file.write(BLOCK * BLOCKS, 1, 1, 1.0)
    file.write(-1, 1, 1, 1.0)


def test_a_file_on_another_machine_is_refused():
    with pytest.raises(InputError, match="run both on one machine"):
        RunningBlock("/nowhere/at/all", 0)
