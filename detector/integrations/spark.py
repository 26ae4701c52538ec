"""Spark: a function for `mapInPandas` that gives the verdict on each row of a DataFrame.

from groundwire.integrations.spark import ScoreFrames, verdict_schema
answers = spark.read.parquet("answers.parquet").repartition("prompt").sortWithinPartitions("prompt")
answers.mapInPandas(ScoreFrames(keep=["id"]), "id string, " + verdict_schema()).write.parquet("verdicts")

Rows of one prompt share its encoding where they stand in one batch: bring them into one partition and sort there. Spark
is not imported; the executors need Groundwire, pandas and pyarrow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from groundwire.batch.columns import Columns
from groundwire.batch.frames import FrameScorer, arrow_library
from groundwire.batch.packing import verdict_types
from groundwire.batch.recipe import Load, Recipe, limit_threads


@dataclass(frozen=True)
class ScoreFrames:
    """The function: pandas frames in, frames with `keep` and the verdict's columns out, in the same order.

    load: the detector; a Recipe is loaded once in each Python worker, however many partitions that works on.
    threads: of the processor, for a Python worker; Spark runs one on each core. columns, keep, prefix, threshold,
    tokens: see `groundwire.batch.frames.FrameScorer`; `verdict_schema` takes tokens and prefix as well.
    """

    load: Load = field(default_factory=Recipe)
    threads: int | None = 1
    columns: Columns = field(default_factory=Columns)
    keep: Sequence[str] | None = None
    prefix: str = ""
    threshold: float | None = None
    tokens: bool = False

    def __call__(self, frames: Iterable[Any]) -> Iterator[Any]:
        limit_threads(self.threads)
        detector = self.load.shared() if isinstance(self.load, Recipe) else self.load()
        scorer = FrameScorer(
            detector,
            threshold=self.threshold,
            tokens=self.tokens,
            columns=self.columns,
            keep=self.keep,
            prefix=self.prefix,
        )
        yield from map(scorer.frame, frames)


def verdict_schema(*, tokens: bool = False, prefix: str = "") -> str:
    """The verdict's columns as Spark's DDL, to stand behind those that are kept."""
    types = verdict_types(arrow_library())
    left_out = {"action"} if tokens else {"action", "tokens"}
    return ", ".join(f"{prefix}{name} {_ddl(kind)}" for name, kind in types.items() if name not in left_out)


def _ddl(kind: Any) -> str:
    """An Arrow type as Spark spells it."""
    if hasattr(kind, "value_type"):
        return f"array<{_ddl(kind.value_type)}>"
    if hasattr(kind, "fields"):
        return "struct<" + ", ".join(f"`{each.name}`: {_ddl(each.type)}" for each in kind.fields) + ">"
    return {"int64": "bigint", "bool": "boolean"}.get(str(kind), str(kind))
