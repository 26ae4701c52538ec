from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from groundwire.batch.score import score_file
from groundwire.batch.units import CHARACTERS, PROMPT_ROWS
from groundwire.errors import GroundwireError, InputError
from groundwire.types import Contribution, Detection, Example, Term, TokenScore


class WordDetector:
    """A deterministic stand-in: the score is the share of response words that the prompt does not have."""

    threshold = 0.5
    tokens_read = 0

    def __init__(self, before: Callable[[int], None] = lambda batch: None) -> None:
        self.before, self.batches = before, []

    def score_batch(self, examples: Sequence[Example], **_: bool) -> list[Detection]:
        self.before(len(self.batches))
        self.batches.append(list(examples))
        return [self.detect(example) for example in examples]

    def detect(self, example: Example) -> Detection:
        words = example.response.split()
        if not words:
            return Detection(status="not_checked", reason="empty_response")
        known = " ".join(message["content"] for message in example.messages).split()
        score = sum(word not in known for word in words) / len(words)
        terms = tuple(Contribution(Term("grounding", f"term {i}"), 1.0 / i) for i in range(1, 8))
        tokens = (TokenScore(words[0], 0, len(words[0]), score),)
        return Detection("checked", score=score, logit=0.0, intercept=0.0, contributions=terms, tokens=tokens)


def row(name: object, prompt: str = "a b c", response: str = "a b") -> dict:
    return {"id": name, "prompt": prompt, "response": response}


@pytest.fixture
def source(tmp_path) -> Path:
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "out.jsonl"


def fill(source: Path, *rows: dict | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    source.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n") if line]


def test_every_row_gets_its_verdict_in_the_order_of_the_input(source, target):
    names = ["z", 3, "größe 🦔", "z", "3", 0]
    fill(source, *(row(name, response="a x" if i % 2 else "a b") for i, name in enumerate(names)))
    summary = score_file(WordDetector(), source, target)
    rows = written(target)
    assert [set(row) for row in rows] == [{"id", "hallucination"}] * 6
    assert [row["id"] for row in rows] == names
    assert [row["hallucination"]["score"] for row in rows] == [0.0, 0.5] * 3
    assert [row["hallucination"]["flagged"] for row in rows] == [False] * 6
    assert {row["hallucination"]["action"] for row in rows} == {"annotate"}
    assert (summary.rows, summary.checked, summary.flagged, summary.invalid) == (6, 6, 0, 0)
    assert summary.seconds > 0


def test_the_threshold_can_be_set(source, target):
    fill(source, row(1, response="a b"), row(2, response="a x"))
    summary = score_file(WordDetector(), source, target, threshold=0.4)
    assert [row["hallucination"]["flagged"] for row in written(target)] == [False, True]
    assert [row["hallucination"]["threshold"] for row in written(target)] == [0.4, 0.4]
    assert summary.flagged == 1


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(source, target, threshold):
    fill(source, row(1))
    with pytest.raises(InputError, match="threshold"):
        score_file(WordDetector(), source, target, threshold=threshold)
    assert not target.exists()


def test_rows_that_cannot_be_scored_are_written_in_their_place(source, target):
    fill(
        source,
        row("good"),
        '{"id": "torn", "prompt": ',
        {"id": "no response", "prompt": "p"},
        {"id": "no passages", "context": [], "question": "q", "response": "r"},
        row("empty", response=""),
        row("last"),
    )
    summary = score_file(WordDetector(), source, target)
    rows = {row["id"]: row["hallucination"] for row in written(target)}
    assert list(rows) == ["good", "line-2", "no response", "no passages", "empty", "last"]
    reasons = [rows[name]["reason"] for name in rows]
    assert reasons == [None, "invalid_input", "invalid_input", "no_passages", "empty_response", None]
    assert rows["no response"]["detail"] == f'{source}, line 3: "response" is missing. Expected: a string'
    assert rows["no response"]["status"] == "not_checked"
    assert rows["no response"]["score"] is rows["no response"]["flagged"] is None
    assert summary.not_checked == Counter(invalid_input=2, no_passages=1, empty_response=1)
    assert (summary.rows, summary.checked, summary.invalid) == (6, 2, 2)


def test_tokens_and_terms_on_request(source, target):
    fill(source, row(1))
    score_file(WordDetector(), source, target)
    plain = written(target)[0]["hallucination"]
    score_file(WordDetector(), source, target, tokens=True, top_terms=2, overwrite=True)
    rich = written(target)[0]["hallucination"]
    assert plain["tokens"] is None
    assert len(plain["terms"]) == 5
    assert rich["tokens"] == [{"token": "a", "start": 0, "end": 1, "score": 0.0}]
    assert len(rich["terms"]) == 2


def test_standard_input(monkeypatch, target):
    lines = json.dumps(row(1)) + "\n" + json.dumps(row(2))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert score_file(WordDetector(), "-", target).rows == 2


def test_an_empty_file_gives_an_empty_file(source, target):
    fill(source)
    assert score_file(WordDetector(), source, target).rows == 0
    assert target.read_bytes() == b""


def test_a_window_without_valid_rows_never_reaches_the_detector(source, target):
    fill(source, "{", "{")
    detector = WordDetector()
    assert score_file(detector, source, target).invalid == 2
    assert detector.batches == []


def test_a_large_file_streams(source, target):
    fill(source, *(row(i, prompt=f"prompt {i % 300} ".ljust(3000, "x")) for i in range(1000)))
    detector = WordDetector()
    score_file(detector, source, target)
    sizes = [len(batch) for batch in detector.batches]
    assert sum(sizes) == 1000
    assert len(sizes) > 10
    prompts = [{str(example.messages) for example in batch} for batch in detector.batches]
    assert all(not one & other for one, other in pairwise(prompts))


def test_rows_of_one_prompt_are_bounded(source, target):
    fill(source, *(row(i, response="a b " * 100) for i in range(2 * PROMPT_ROWS + 1)))
    detector = WordDetector()
    score_file(detector, source, target)
    assert max(len(batch) for batch in detector.batches) <= PROMPT_ROWS
    assert sum(len(batch) for batch in detector.batches) == 2 * PROMPT_ROWS + 1


def test_an_engine_that_batches_by_itself_gets_more_at_once(source, target):
    fill(source, *(row(i, prompt=f"{i}".ljust(CHARACTERS // 2)) for i in range(12)))
    small, large = WordDetector(), WordDetector()
    large.engine = SimpleNamespace(unit_characters=4 * CHARACTERS)  # type: ignore[attr-defined]
    score_file(small, source, target)
    with pytest.raises(InputError, match="plan unit"):
        score_file(large, source, target)
    score_file(large, source, target, overwrite=True)
    assert [len(small.batches), len(large.batches)] == [12, 2]


@pytest.mark.parametrize("error", [GroundwireError("broken"), KeyboardInterrupt(), MemoryError()])
def test_an_interrupted_run_keeps_its_rows_and_never_looks_complete(source, target, error):
    def stop(batch: int) -> None:
        if batch == 1:
            raise error

    fill(source, *(row(i, prompt=f"{i}".ljust(CHARACTERS // 8 - 3)) for i in range(9)))
    with pytest.raises(type(error)) as caught:
        score_file(WordDetector(stop), source, target)
    partial = target.with_name("out.jsonl.partial")
    assert not target.exists()
    assert [row["id"] for row in written(partial)] == list(range(8))
    assert "8 finished rows are kept in" in caught.value.__notes__[0]


def test_a_detector_that_loses_a_row_is_an_error_not_a_shift(source, target, monkeypatch):
    detector = WordDetector()
    monkeypatch.setattr(detector, "score_batch", lambda examples, **_: [detector.detect(examples[0])])
    fill(source, row(1), row(2))
    with pytest.raises(ValueError, match="zip"):
        score_file(detector, source, target)
    assert not target.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_says_how_many_rows_are_safe(source, target):
    target.with_name("out.jsonl.partial").symlink_to("/dev/full")
    fill(source, row(1))
    with pytest.raises(GroundwireError, match="No space left on device; no row was written"):
        score_file(WordDetector(), source, target, overwrite=True)
    assert not target.exists()


def test_wrong_paths_fail_before_anything_is_scored(source, target):
    detector = WordDetector()
    with pytest.raises(InputError, match="No such file"):
        score_file(detector, source, target)
    fill(source, row(1))
    with pytest.raises(InputError, match="its own input"):
        score_file(detector, source, source, overwrite=True)
    target.write_text("precious")
    with pytest.raises(InputError, match="exists"):
        score_file(detector, source, target)
    assert target.read_text() == "precious"
    assert detector.batches == []
