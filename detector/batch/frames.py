"""Rows in, rows out: scores a batch of a larger table (Arrow, pandas, arrays), as Ray Data and Spark hand them over.

    batch ─▶ Columns.read, parse_row ─▶ windows ─▶ units ─▶ score_unit ─▶ the batch with the verdict's columns

It is the reading, the planning and the scoring of `groundwire score`, so the same rows get the same verdicts. Rows of
one prompt share its encoding where they are in one batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from groundwire.batch.columns import Columns
from groundwire.batch.packing import as_columns, verdict_types
from groundwire.batch.reader import ExampleRow, InvalidRow, Row
from groundwire.batch.rows import parse_row, row_id
from groundwire.batch.unit import TOP_TERMS, BatchDetector, Options, score_unit
from groundwire.batch.units import units
from groundwire.batch.windows import windows
from groundwire.errors import InputError, MissingExtra
from groundwire.guard import decide
from groundwire.types import Detection


class FrameScorer:
    """Scores batches of rows with one detector.

    threshold: rows with a score above it are flagged; None takes the detector's own. tokens: the score of every token
    too. top_terms: contributions listed. passage_windows: prompts beyond the model's context are scored in windows of
    their passages; else they are not checked. columns: the names under which the rows have id, prompt (or question and
    context) and response. keep: columns of the batch that are given back; None for all of them. prefix: put before the
    names of the verdict's columns, where the batch has some of these itself.
    Raises MissingExtra where pyarrow is not installed.
    """

    def __init__(
        self,
        detector: BatchDetector,
        *,
        threshold: float | None = None,
        tokens: bool = False,
        top_terms: int = TOP_TERMS,
        passage_windows: bool = True,
        columns: Columns | None = None,
        keep: Sequence[str] | None = None,
        prefix: str = "",
    ) -> None:
        threshold = detector.threshold if threshold is None else threshold
        self.detector, self.columns = detector, columns or Columns()
        self.options = Options(threshold, tokens=tokens, top_terms=top_terms, passage_windows=passage_windows)
        self.keep, self.prefix = keep, prefix
        self._pyarrow = arrow_library()

    def rows(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """The verdict of each row (see `Verdict.to_dict`). One that cannot be read is not_checked, invalid_input."""
        read = [self._read(row, number) for number, row in enumerate(rows, 1)]
        verdicts: dict[int, dict[str, Any]] = {
            place: self._unscored(row) for place, row in enumerate(read) if isinstance(row, InvalidRow)
        }
        for window in windows(read):
            for unit in units(window):
                scored = score_unit(self.detector, unit, self.options)
                verdicts.update(zip(unit.places, scored.verdicts, strict=True))
        return [verdicts[place] for place in range(len(read))]

    def batch(self, batch: Any) -> Any:
        """The batch with the verdict's columns, as an Arrow table. batch: one, a pandas frame, or arrays by column.

        Raises InputError where a column to keep is missing, has the name of one of the verdict's, or no Arrow type.
        """
        values = {name: _values(batch[name]) for name in _names(batch)}
        kept = {name: self._arrow(batch[name], name) for name in self._kept(values)}
        return self._pyarrow.table(kept | self._scored(values))

    def frame(self, frame: Any) -> Any:
        """The pandas frame with the verdict's columns; nested ones hold lists and dicts. Raises InputError as `batch`.

        The order of rows and their index stay.
        """
        values = {name: _values(frame[name]) for name in frame.columns}
        kept = frame[self._kept(values)]
        scored = self._scored(values).items()
        return kept.assign(**{name: column.to_pandas().set_axis(kept.index) for name, column in scored})

    @property
    def types(self) -> dict[str, Any]:
        """The verdict's columns, prefix included, with their Arrow types."""
        left_out = {"action"} if self.options.tokens else {"action", "tokens"}  # the action is always "annotate"
        types = verdict_types(self._pyarrow).items()
        return {self.prefix + name: kind for name, kind in types if name not in left_out}

    def _scored(self, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """The verdict's columns for columns of plain values."""
        rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        found = [as_columns(verdict) for verdict in self.rows(rows)]
        return {
            name: self._pyarrow.array([verdict.get(name.removeprefix(self.prefix)) for verdict in found], kind)
            for name, kind in self.types.items()
        }

    def _kept(self, names: Collection[str]) -> list[str]:
        kept = list(names if self.keep is None else self.keep)
        missing, taken = sorted({*kept} - {*names}), sorted({*kept} & self.types.keys())
        if missing:
            raise InputError(
                f"the rows have no column {missing[0]!r}",
                expected=f"one of {', '.join(map(str, names))}",
                remedy="correct the columns to keep",
            )
        if taken:
            raise InputError(
                f"the rows have columns with names of the verdict's: {', '.join(taken)}",
                expected="names that are free",
                remedy='put a prefix before the verdict\'s (prefix="hallucination_"), or keep fewer columns (keep)',
            )
        return kept

    def _arrow(self, column: Any, name: str) -> Any:
        if hasattr(column, "to_pylist"):
            return column
        try:
            return self._pyarrow.array(_values(column))
        except self._pyarrow.ArrowException as error:
            raise InputError(
                f"column {name!r} cannot be given back: {error}",
                expected="values of one type",
                remedy="correct them, or leave the column out of those to keep (keep)",
            ) from error

    def _read(self, row: Any, number: int) -> Row:
        name: str | int = f"row-{number}"
        try:
            fields = self.columns.read(row)
            given = row_id(fields)
            name = name if given is None else given
            return ExampleRow(number, name, parse_row(fields, default_id=str(name)))
        except InputError as error:
            return InvalidRow(number, name, error)

    def _unscored(self, row: InvalidRow) -> dict[str, Any]:
        detail = f"{row.error.given}. Expected: {row.error.expected}"
        detection = Detection(status="not_checked", reason=row.reason, detail=detail)
        return decide(detection, self.options.threshold).to_dict()


def arrow_library() -> Any:
    """`pyarrow`. Raises MissingExtra without it."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    return pyarrow


def plain(value: Any) -> Any:
    """A cell as JSON would have it: arrays become lists, numbers Python's own, Spark's rows dicts, gaps None."""
    if isinstance(value, np.ndarray | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if hasattr(value, "asDict"):
        value = value.asDict()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    # pandas.NA and NaT equal nothing, and pandas need not be there
    missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    return None if missing else value


def _names(batch: Any) -> list[str]:
    if hasattr(batch, "column_names"):
        return list(batch.column_names)
    return list(batch.columns if hasattr(batch, "columns") else batch)


def _values(column: Any) -> list[Any]:
    values = column.to_pylist() if hasattr(column, "to_pylist") else column
    return [plain(value) for value in values]
