"""Writes the rows to label: one pass over the scores to draw, one over scores and answers to write what was drawn."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from groundwire.batch.columns import Columns
from groundwire.batch.reader import read_objects
from groundwire.batch.sources import expand
from groundwire.batch.writer import PartialWriter, check_target
from groundwire.report.answers import check_answers, join, read_answers
from groundwire.report.rows import Scored, read_scored
from groundwire.sample.draw import Draw, draw


def build_sample(
    scored: str | Path,
    target: str | Path,
    *,
    number: int,
    answers: str | Path | None = None,
    seed: int = 0,
    columns: Columns | None = None,
    overwrite: bool = False,
) -> Draw:
    """Draw `number` checked rows of the file `scored` and write them to `target`, "label" left to be filled in.

    answers: the file (or glob) that was scored; its rows are then written whole, as `groundwire calibrate` reads them.
    columns: its names for the fields of a row, as they were for `score`.
    Each row says its `label_probability`, with which it was drawn, and its `label_weight`, one over that.
    Memory: 16 bytes a row. Raises InputError where a file cannot be used or `number` is too small, GroundwireError
    where writing fails.
    """
    check_answers(scored)
    check_target(target, source=scored, overwrite=overwrite)
    if answers is not None:
        check_answers(answers)
        check_target(target, source=[each.path for each in expand(answers)], overwrite=overwrite)
    scores, places = array("d"), array("q")
    for place, row in enumerate(read_scored(scored)):
        if row.score is not None:
            scores.append(row.score)
            places.append(place)
    drawn = draw(np.array(scores, dtype=np.float64), number, seed=seed)
    chosen = {places[row]: int(member) for row, member in zip(drawn.rows, drawn.member, strict=True)}
    with PartialWriter(target, overwrite=overwrite) as writer:
        for place, (row, values) in enumerate(_rows(scored, answers, columns)):
            if place in chosen:
                stratum = drawn.strata[chosen[place]]
                about = {"label_probability": stratum.probability, "label_weight": 1 / stratum.probability}
                known = values.get("label") if values.get("label") in (0, 1) else None
                plain = {"id": row.id, **values, "score": row.score, "flagged": row.flagged}
                writer.write(plain | {"id": row.id, "label": known} | about)
        writer.finish()
    return drawn


def _rows(
    scored: str | Path, answers: str | Path | None, columns: Columns | None
) -> Iterator[tuple[Scored, Mapping[str, Any]]]:
    if answers is None:
        yield from ((row, {}) for row in read_scored(scored))
        return
    joined = join(read_scored(scored), read_answers(answers, columns))
    for pair, values in zip_longest(joined, read_objects(answers)):
        yield pair[0], values
