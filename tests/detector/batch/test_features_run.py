"""The file of activations through a whole run, ended in the middle and continued."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundwire.batch.described import Described
from groundwire.batch.features_file import parts_path
from groundwire.batch.score import score_file
from groundwire.batch.unit import LocalRunner, Options, Scored, Unit
from groundwire.batch.units import units
from groundwire.batch.workers import WorkersRunner
from groundwire.engines.fake import fake_detector
from groundwire.errors import InputError
from tests.detector.batch.breaking import BAD, GOOD, PROMPT
from tests.detector.batch.test_score import WordDetector

parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

OPTIONS = Options(0.5, features="response")
ROWS = [
    {"id": i, "prompt": f"{PROMPT} {i % 4}", "response": ("" if i == 5 else GOOD if i % 3 else BAD)} for i in range(12)
]


class Ending(LocalRunner):
    """Ends the run after so many units."""

    def __init__(self, *args: Any, after: int = 99) -> None:
        super().__init__(*args)
        self.after, self.units = after, 0

    def run(self, units: Iterable[Unit]) -> Iterator[Scored]:
        for scored in super().run(units):
            if self.units == self.after:
                raise KeyboardInterrupt
            self.units += 1
            yield scored


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr("groundwire.batch.score.units", partial(units, characters=200, prompt_rows=3, rows=3))


@pytest.fixture
def paths(tmp_path) -> tuple[Path, Path, Path]:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:7], {"id": 7}, *ROWS[8:]]))
    return source, tmp_path / "out.jsonl", tmp_path / "features.parquet"


def run(paths: tuple[Path, Path, Path], after: int = 99, **how: Any) -> Ending:
    source, target, features = paths
    detector = fake_detector()
    runner = Ending(detector, OPTIONS, after=after)
    score_file(detector, source, target, options=OPTIONS, runner=runner, features=features, progress=False, **how)
    return runner


def check(features: Path) -> None:
    found = parquet.read_table(features).to_pydict()
    assert sorted(found["row"]) == [i for i in range(12) if i not in (5, 7)]
    for row, name, mean, highest in zip(*found.values(), strict=True):
        assert name == str(row)
        (detection,) = fake_detector().score_batch([_example(row)], features=True)
        np.testing.assert_allclose(mean, detection.features.mean(0), atol=1e-6)
        np.testing.assert_allclose(highest, detection.features.amax(0))
    assert not parts_path(features).exists()


def _example(row: int) -> Any:
    from groundwire.batch.rows import parse_row

    return parse_row(ROWS[row])


def test_a_run_writes_the_activations_of_every_checked_row(paths):
    assert run(paths).units > 3
    check(paths[2])


def test_an_ended_run_continues_its_activations(paths):
    with pytest.raises(KeyboardInterrupt):
        run(paths, after=2)
    assert not paths[2].exists()
    assert len(list(parts_path(paths[2]).glob("*.parquet"))) == 2
    whole = run(paths).units
    assert whole > 1
    check(paths[2])
    assert run(paths).units == 0  # all is there


def test_a_unit_without_its_part_is_scored_again(paths):
    with pytest.raises(KeyboardInterrupt):
        run(paths, after=3)
    next(parts_path(paths[2]).glob("*.parquet")).unlink()
    left = run(paths).units
    check(paths[2])
    before = paths[1].read_bytes()
    paths[2].unlink()
    assert run(paths).units == left + 2  # of the finished run too
    check(paths[2])
    assert paths[1].read_bytes() == before


def test_beginning_anew_replaces_both(paths):
    run(paths)
    run(paths, overwrite=True)
    check(paths[2])


def test_worker_processes_give_them_too(paths):
    source, target, features = paths
    with WorkersRunner(fake_detector, OPTIONS, workers=1) as runner:
        described = runner.describe()
        assert described.threshold == 0.5
        assert described == Described.of(fake_detector())
        score_file(described, source, target, options=OPTIONS, runner=runner, features=features, progress=False)
    check(features)


def test_what_cannot_be(paths):
    source, target, features = paths
    with pytest.raises(InputError, match="no terms"):
        score_file(WordDetector(), source, target, features=features, progress=False)
    detector = fake_detector()
    with pytest.raises(InputError, match="a runner that keeps none"):
        score_file(detector, source, target, runner=LocalRunner(detector, Options(0.5)), features=features)
    with pytest.raises(InputError, match="no runner that has it"):
        score_file(Described.of(detector), source, target, progress=False)
    with pytest.raises(InputError, match="another file of the run"):
        score_file(detector, source, target.with_suffix(".parquet"), features=target.with_suffix(".parquet"))
    score_file(detector, source, target, features=features, progress=False)
    check(features)
