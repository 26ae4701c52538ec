"""Batches of Ray and Spark, without either: Arrow tables, pandas frames, NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from groundwire.batch.columns import Columns
from groundwire.batch.frames import FrameScorer, plain
from groundwire.engines.fake import FakeEngine, fake_detector
from groundwire.errors import InputError
from tests.detector.batch.breaking import BAD, GOOD, PROMPT

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pandas = pytest.importorskip("pandas", reason="pandas is not installed")

ROWS = {
    "id": ["a", "b", "c", "d"],
    "prompt": [PROMPT, PROMPT, "", PROMPT],
    "response": [GOOD, BAD, GOOD, None],
    "model": ["m1", "m2", "m1", "m2"],
}


def scorer(**options: Any) -> FrameScorer:
    return FrameScorer(fake_detector(), **options)


def shown(table: Any) -> list[Any]:
    return list(zip(*(table.column(name).to_pylist() for name in ("id", "status", "reason", "flagged")), strict=True))


VERDICTS = [
    ("a", "checked", None, True),
    ("b", "checked", None, True),
    ("c", "not_checked", "no_passages", None),
    ("d", "not_checked", "invalid_input", None),
]


def in_any_form(rows: dict[str, list[Any]]) -> list[Any]:
    arrays = {name: np.array(values, dtype=object) for name, values in rows.items()}
    return [pyarrow.table(rows), pandas.DataFrame(rows, index=[3, 3, 1, 0][: len(rows["id"])]), arrays]


@pytest.mark.parametrize("form", range(3))
def test_a_batch_comes_back_with_the_columns_of_the_verdict(form):
    table = scorer().batch(in_any_form(ROWS)[form])
    assert shown(table) == VERDICTS
    assert table.column("model").to_pylist() == ROWS["model"]
    assert table.column("detail").to_pylist()[3].startswith('"response" is missing. Expected')
    assert table.column("spans").to_pylist()[1][0]["text"] == "It"
    assert "tokens" not in table.column_names
    assert {"action"}.isdisjoint(table.column_names)


def test_the_schema_is_the_same_whatever_the_batch_holds():
    rows = {name: values[2:] for name, values in ROWS.items()}
    assert scorer().batch(pyarrow.table(rows)).schema.equals(scorer().batch(pyarrow.table(ROWS)).schema)


def test_a_frame_stays_a_frame():
    frame = in_any_form(ROWS)[1]
    scored = scorer(keep=["id"], tokens=True).frame(frame)
    assert list(scored.index) == [3, 3, 1, 0]
    assert list(scored.columns[:4]) == ["id", "status", "reason", "detail"]
    assert list(scored["flagged"]) == [True, True, None, None]
    assert scored["tokens"].iloc[0][0]["token"] == "It"
    assert list(frame.columns) == list(ROWS)


def test_rows_of_one_prompt_go_to_the_detector_together(monkeypatch):
    seen = []
    replay = FakeEngine.replay

    def noted(self: Any, asked: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append([len(each.responses) for each in asked])
        return replay(self, asked, *args, **kwargs)

    monkeypatch.setattr(FakeEngine, "replay", noted)
    rows = [{"prompt": f"{PROMPT} {i % 2}", "response": GOOD} for i in range(10)]
    found = scorer().rows(rows)
    assert seen == [[5, 5]]
    assert {verdict["status"] for verdict in found} == {"checked"}


def test_other_names_lists_and_messages():
    columns = Columns(response="answer", context="passages", question="asked")
    batch = {"passages": [[PROMPT, "Another."], np.array([PROMPT])], "asked": ["When?", "When?"], "answer": [GOOD, BAD]}
    arrays = {name: np.array(values, dtype=object) for name, values in batch.items()}
    assert scorer(columns=columns).batch(arrays).column("status").to_pylist() == ["checked", "checked"]
    messages = {"messages": [[{"role": "user", "content": PROMPT}]], "response": [GOOD]}
    assert scorer().batch(pyarrow.table(messages)).column("status").to_pylist() == ["checked"]


def test_no_rows():
    assert scorer().batch(pyarrow.table({"id": [], "prompt": [], "response": []})).num_rows == 0
    assert len(scorer().frame(pandas.DataFrame({"prompt": [], "response": []}))) == 0


def test_names_that_are_taken_or_missing():
    table = pyarrow.table({**ROWS, "score": [1, 2, 3, 4]})
    with pytest.raises(InputError, match="names of the verdict's: score") as caught:
        scorer().batch(table)
    assert "prefix=" in caught.value.remedy
    found = scorer(prefix="hallucination_").batch(table)
    assert found.column("score").to_pylist() == [1, 2, 3, 4]
    assert found.column("hallucination_flagged").to_pylist() == [True, True, None, None]
    assert "score" in scorer(keep=["id"]).batch(table).column_names
    with pytest.raises(InputError, match="no column 'name'"):
        scorer(keep=["name"]).batch(table)


def test_a_column_without_an_arrow_type_is_named():
    batch = {"prompt": np.array([PROMPT] * 2), "response": np.array([GOOD, 7], dtype=object)}
    with pytest.raises(InputError, match="column 'response' cannot be given back"):
        scorer().batch(batch)
    assert scorer(keep=[]).batch(batch).column("reason").to_pylist() == [None, "invalid_input"]


def test_plain_values():
    class SparkRow(tuple):
        def asDict(self) -> dict[str, Any]:
            return {"role": "user", "content": np.str_("x")}

    given = [np.int64(3), np.array([1.5, np.nan]), pandas.NA, pandas.NaT, float("nan"), [SparkRow()], "text", None]
    assert [plain(value) for value in given] == [
        3,
        [1.5, None],
        None,
        None,
        None,
        [{"role": "user", "content": "x"}],
        "text",
        None,
    ]
