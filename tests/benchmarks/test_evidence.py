"""The draw depends on the seed alone, a verdict holds for one pointer only, the published figure is its verdicts'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results" / "evidence-judged.json"


@pytest.fixture
def evidence(script):
    return script("evidence")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(80):
            prompt = f"Summarize the following document.\n\nBridge {i // 2} was opened in {1900 + i // 2}."
            row = {"id": f"row-{i}", "group": i // 2, "prompt": prompt, "response": f"Bridge {i // 2} opened in 1800."}
            end = len(row["response"]) - 1
            file.write(json.dumps({**row, "spans": [{"start": end - 4, "end": end}]}) + "\n")
    return path


def test_one_span_of_each_group_by_the_seed_alone(evidence, rows):
    drawn = evidence.draw(rows)
    assert drawn == evidence.draw(rows)
    assert len({row["group"] for row, _ in drawn}) == len(drawn) == evidence.SPANS


def test_a_verdict_holds_for_the_pointer_it_was_given_for(evidence, rows, tmp_path):
    items = [evidence.point(row, span) for row, span in evidence.draw(rows)]
    row = evidence.draw(rows)[0][0]
    assert row["prompt"][items[0]["pointer"]["start"] : items[0]["pointer"]["end"]].startswith("Bridge")
    assert evidence.figures(items) == {}
    judged = [{**item, "verdict": "right" if i else "wrong", "why": "x"} for i, item in enumerate(items)]
    kept = tmp_path / "judged.json"
    kept.write_text(json.dumps({"judged": judged}))
    assert evidence.with_verdicts(items, kept) == judged
    found = evidence.figures(judged)
    assert (found["spans"], found["right"], found["null"]) == (30, 29, 0)
    judged[1]["pointer"] = None
    kept.write_text(json.dumps({"judged": judged}))
    assert evidence.figures(evidence.with_verdicts(items, kept)) == {}


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(31, 60, 0.3931, 0.6382), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)],
)
def test_wilsons_interval(evidence, right, count, low, high):
    assert evidence.wilson(right, count) == pytest.approx((low, high), abs=1e-4)


def test_the_published_figure_is_that_of_its_verdicts_and_holds_no_text(evidence):
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    judged = published["judged"]
    assert published["tables"]["evidence"][-1] == {
        "data set": "both",
        **json.loads(json.dumps(evidence.figures(judged))),
    }
    assert {key for item in judged for key in item} == {"id", "start", "end", "pointer", "verdict", "why"}
    assert {key for item in judged for key in item["pointer"] or ()} == {"start", "end", "similarity"}
    assert all(len(item["why"]) < 100 for item in judged)
