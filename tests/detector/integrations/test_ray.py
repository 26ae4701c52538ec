"""Ray Data's own map_batches around the class, on a cluster of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from groundwire.engines.fake import fake_detector

pytest.importorskip("ray", reason='Ray is not installed: pip install "groundwire[ray]"')
pytest.importorskip("pyarrow", reason="pyarrow is not installed")

import ray

from groundwire.integrations.ray import ScoreAnswers

PROMPTS = [f"The lighthouse {i} was built in 1889 by a builder from Lisbon." for i in range(3)]
ROWS = [
    {"id": i, "prompt": PROMPTS[i % 3] if i != 7 else None, "response": "built in 1889" if i % 2 else "built in 1931"}
    for i in range(12)
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("default")  # Ray Data's own
@pytest.mark.parametrize("form", ["pyarrow", "pandas", "numpy"])
def test_a_dataset_gets_its_verdicts(form: str) -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    scored = ray.data.from_items(ROWS).map_batches(
        ScoreAnswers,
        fn_constructor_kwargs={"load": fake_detector, "threshold": 0.4},
        batch_format=form,
        batch_size=4,
        concurrency=2,
    )
    rows: list[dict[str, Any]] = sorted(scored.take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(12))
    assert [row["flagged"] for row in rows] == [None if i == 7 else i % 2 == 0 for i in range(12)]
    assert rows[7]["reason"] == "invalid_input"
    assert rows[0]["spans"][0]["text"] == "1931"
    assert {row["threshold"] for row in rows} == {0.4}
