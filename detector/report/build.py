"""Writes a report: one pass over the scores, and over the answers beside them.

read_scored ─┐
read_answers ┴▶ join ─▶ Tally.add … ─▶ page ─▶ OUT.partial ─▶ OUT
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from groundwire.batch.columns import Columns
from groundwire.batch.reader import STDIN, check_source, count_rows
from groundwire.batch.sources import expand
from groundwire.batch.writer import check_target
from groundwire.errors import InputError
from groundwire.report.answers import Answer, check_answers, join, read_answers
from groundwire.report.document import write_document
from groundwire.report.labels import Labels, labelled, read_labels
from groundwire.report.page import page
from groundwire.report.rows import Scored, read_scored
from groundwire.report.tally import Tally

ORIGINS = ("generator", "dataset")
TOP = 20


def build_report(
    scored: str | Path,
    target: str | Path,
    *,
    answers: str | Path | None = None,
    top: int = TOP,
    by: Sequence[str] = (),
    labels: str | Path | None = None,
    columns: Columns | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Tally:
    """Write the HTML page `target` about the file `scored` ("-": standard input), and give back what was counted.

    answers: the file (or glob) that was scored; it brings texts and labels. columns: its names for the fields of a row,
    as they were for `score`. top: how many of the highest scores to show.
    by: columns of `answers` to count by; none takes those of generator and dataset that tell rows apart.
    labels: rows of `answers` with labels, as `groundwire sample` wrote them; matched by id, other labels are left out.
    progress: show a progress bar on standard error, where that is a terminal.
    Raises InputError where a file cannot be used, the two do not belong together, or no row has a column of `by`;
    GroundwireError where writing fails.
    """
    if by and answers is None:
        raise InputError(
            f"counting by {', '.join(by)} without answers",
            expected="the file that was scored, which has these columns",
            remedy="pass it as --answers (answers=...)",
        )
    if labels is not None and answers is None:
        raise InputError(
            "labels without answers",
            expected="the file that was scored, whose rows the labels belong to",
            remedy="pass it as --answers (answers=...)",
        )
    check_source(scored)
    check_target(target, source=scored, overwrite=overwrite)
    if answers is not None:
        check_answers(answers)
        check_target(target, source=[each.path for each in expand(answers)], overwrite=overwrite)
    known = None if labels is None else read_labels(labels)
    tally = Tally(top=top, by=tuple(dict.fromkeys(by)) or ORIGINS)
    with tqdm(total=count_rows(scored), unit="row", desc="reading", disable=None if progress else True) as bar:
        for row, answer in _pairs(scored, answers, known, columns):
            tally.add(row, answer)
            bar.update()
    _check(tally, scored, by)
    if not by:
        tally.by = {column: values for column, values in tally.by.items() if len(values) > 1}
    name = "standard input" if str(scored) == STDIN else Path(scored).name
    write_document(Path(target), page(tally, scored=name, answers=None if answers is None else Path(answers).name))
    return tally


def _pairs(
    scored: str | Path, answers: str | Path | None, labels: Labels | None, columns: Columns | None
) -> Iterator[tuple[Scored, Answer | None]]:
    if answers is not None:
        pairs = join(read_scored(scored), read_answers(answers, columns))
        yield from pairs if labels is None else labelled(pairs, labels)
    else:
        yield from ((row, None) for row in read_scored(scored))


def _check(tally: Tally, scored: str | Path, by: Sequence[str]) -> None:
    if not tally.all.rows:
        raise InputError(
            f"{str(scored)!r} has no rows",
            expected="at least one row that `groundwire score` wrote",
            remedy="score some answers first",
        )
    for column in by:
        if column not in tally.columns:
            raise InputError(
                f"no answer has a column {column!r}",
                expected=f"one of {', '.join(sorted(tally.columns)[:30])}",
                remedy="correct --by",
            )
