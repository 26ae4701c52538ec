from __future__ import annotations

import json

import pytest

from groundwire.batch.progress import duration, size_of
from groundwire.batch.score import score_file
from groundwire.batch.units import CHARACTERS
from groundwire.types import Detection


class Counting:
    """Reads a token for every four characters."""

    id = "counting"
    threshold = 0.5
    tokens_read = 0

    def score_batch(self, examples, *, features=False, passage_windows=False):
        prompts = {example.messages[0]["content"] for example in examples}
        self.tokens_read += sum(map(len, prompts)) // 4
        return [Detection("checked", score=0.1, logit=0.1, intercept=0.1) for _ in examples]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    rows = [{"id": i, "prompt": f"{i}".ljust(CHARACTERS // 4 - 1), "response": "r"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_to_be_done_and_how_long_it_may_take_is_said(source, tmp_path, capsys):
    score_file(Counting(), source, tmp_path / "out.jsonl")
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"scoring 40 rows of {source.stat().st_size / 1000:.1f} kB, about 81,900 tokens to read"
    assert second.startswith("40 rows, about 81,900 tokens, about 1 s at ")
    assert second.endswith(" tokens/s")


def test_rows_that_are_scored_already_are_left_out_of_the_estimate(source, tmp_path, capsys):
    class Stopping(Counting):
        def score_batch(self, examples, **asked):
            if self.tokens_read > 50_000:
                raise KeyboardInterrupt
            return super().score_batch(examples, **asked)

    with pytest.raises(KeyboardInterrupt):
        score_file(Stopping(), source, tmp_path / "out.jsonl")
    capsys.readouterr()
    score_file(Counting(), source, tmp_path / "out.jsonl")
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("28 rows are scored already")
    assert second.startswith("scoring 12 rows of ")
    assert second.endswith(", about 24,600 tokens to read")
    assert third.startswith("12 rows, about 24,600 tokens, ")


def test_nothing_is_said_where_nobody_wants_to_know(source, tmp_path, capsys):
    score_file(Counting(), source, tmp_path / "out.jsonl", progress=False)
    assert capsys.readouterr() == ("", "")


def test_what_a_file_does_not_say_is_not_made_up(source, tmp_path, capsys):
    import gzip

    packed = tmp_path / "in.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    score_file(Counting(), packed, tmp_path / "out.jsonl")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("scoring rows of ")
    assert second.startswith("about ")
    assert second.endswith(" tokens/s")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (40.2, "40 s"), (100.0, "2 min"), (11_400.0, "3 h 10 min")]
)
def test_durations_are_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"), [(12, "12 bytes"), (1000, "1.0 kB"), (12_340_000, "12.3 MB"), (10**16, "10000.0 TB")]
)
def test_sizes_are_words(size, words):
    assert size_of(size) == words
