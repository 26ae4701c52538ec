"""Scores files of rows, window by window: memory does not grow with them, and no finished row is ever lost.

    read_rows ─▶ windows ─▶ units ─▶ Runner.run: score_unit ─▶ {"id": ..., "hallucination": {...}} ─▶ Output

Output rows stand in the input's order, one for every input row. A row that cannot be scored is written as not_checked
with its reason, and the run goes on. A run that was ended goes on where it was, if it is called again: the input is
read anew and compared with what was read before, and only units of which a row is missing are scored.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from groundwire.batch.columns import Columns
from groundwire.batch.described import Described
from groundwire.batch.features_file import FeaturesFile, check_features
from groundwire.batch.file_output import FileOutput
from groundwire.batch.identity import identity
from groundwire.batch.output import Output, StreamOutput, line_of
from groundwire.batch.progress import Progress
from groundwire.batch.reader import InvalidRow, Row, check_source, count_rows, read_rows, size_in_bytes
from groundwire.batch.sources import STDIN, expand
from groundwire.batch.summary import Summary
from groundwire.batch.unit import TOP_TERMS, BatchDetector, LocalRunner, Options, Runner, Scored, Unit
from groundwire.batch.units import units
from groundwire.batch.windows import Window, windows
from groundwire.batch.writer import check_target
from groundwire.errors import GroundwireError, InputError
from groundwire.guard import decide
from groundwire.types import Detection

__all__ = ["BatchDetector", "Summary", "score_file"]


def score_file(
    detector: BatchDetector | Described,
    source: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    columns: Columns | None = None,
    threshold: float | None = None,
    overwrite: bool = False,
    resume: bool = True,
    strict: bool = False,
    tokens: bool = False,
    top_terms: int = TOP_TERMS,
    passage_windows: bool = True,
    options: Options | None = None,
    runner: Runner | None = None,
    features: str | Path | None = None,
    progress: bool = True,
) -> Summary:
    """Score every row of `source`, files or globs ("-" is standard input), into `target` ("-" is standard output).

    Suffixes name the formats: .jsonl, .csv, each also .gz or .zst, and .parquet; the target is JSONL or Parquet.
    columns: the caller's names for the fields of a row.
    threshold: rows with a score above it are flagged; None takes the detector's own.
    overwrite: replace an existing `target`, or what an interrupted run left of it. resume: continue an interrupted run;
        of a finished one, only the input and the settings are compared. Both need `target` + ".run".
    strict: stop at the first row that cannot be read, before anything of its window is scored.
    tokens: write the score of every token as well. top_terms: how many contributions to list per row.
    passage_windows: score prompts beyond the model's context in windows of their passages, else not at all.
    options: these four in one, instead of them. runner: where the units of work are scored, by the same options; None
        is here, one after the other. detector: what a runner's workers have; `Crew.describe` says that.
    features: a Parquet file for the activations behind the verdicts, of what `options.features` says, else of each
        "response"; see `groundwire.batch.features_file`.
    progress: say on standard error what is done, how long it may take and, on a terminal, how far it is.
    Raises InputError where the files or threshold cannot be used, where an interrupted run was of another detector,
    options, columns or input, or at a row that cannot be read where that is to be strict; GroundwireError where writing
    fails; finished rows are then in `target` + ".partial" and ".ahead", and the same call continues.
    """
    if options is None:
        wanted = detector.threshold if threshold is None else threshold
        options = Options(wanted, tokens=tokens, top_terms=top_terms, passage_windows=passage_windows)
    if features is not None and options.features is None:
        if runner is not None:
            raise InputError("a file for features, and a runner that keeps none", expected="options that say of what")
        options = replace(options, features="response")
    _check_threshold(options.threshold)
    columns = columns or Columns()
    names = [each.path for each in expand(source)]
    check_source(names)
    check_target(target, source=names, overwrite=overwrite, resume=resume)
    if features is not None:
        check_features(features, others=[target, *names], overwrite=overwrite, resume=resume)
    described = detector if isinstance(detector, Described) else Described.of(detector)
    output: Output = StreamOutput()
    if str(target) != STDIN:
        about = identity(described, options, columns, names)
        output = FileOutput(Path(target), about, resume=resume, overwrite=overwrite)
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(output)
        rows, size = (None, None) if output.complete else (count_rows(names), size_in_bytes(names))
        there = output.rows + output.ahead
        shown = progress and not output.complete
        bar = stack.enter_context(Progress(rows=rows, size=size, there=there, shown=shown))
        collected: FeaturesFile | None = None
        if features is not None and options.features is not None:
            collected = FeaturesFile(
                features,
                of=options.features,
                about=_terms(described),
                run=str(Path(target).absolute()),
                fresh=not there and not output.complete,
                complete=output.complete,
                overwrite=overwrite,
            )
            stack.enter_context(collected)
        run = _Run(output, options, bar, strict, described.characters, collected)
        runner = stack.enter_context(runner or _local(detector, options))
        for scored in runner.run(run.units(read_rows(names, columns))):
            run.finish(scored)
        run.end()
        if collected is not None:
            collected.finish()
    run.summary.complete, run.summary.tokens = output.complete, bar.tokens
    run.summary.seconds = time.perf_counter() - start
    return run.summary


class _Run:
    """Hands out what is to be scored, and takes in what was; a runner may do these in two threads."""

    def __init__(
        self,
        output: Output,
        options: Options,
        progress: Progress,
        strict: bool,
        characters: int,
        features: FeaturesFile | None = None,
    ) -> None:
        self.summary = Summary()
        self._output, self._options, self._progress, self._strict = output, options, progress, strict
        self._characters, self._features = characters, features
        self._under_way: dict[int, list[Row | None]] = {}  # rows by unit; None for one that is there already
        self._rows = 0
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def units(self, rows: Iterator[Row]) -> Iterator[Unit]:
        """Units that are still to be scored. What is wrong with the input is kept until those under way are back."""
        number = 0
        try:
            cut = windows(self._checked(rows) if self._strict else rows)
            while (window := next(cut, None)) is not None:
                with self._lock:
                    found = self._begin(window)
                for unit in units(window, number, characters=self._characters):
                    number = unit.number + 1
                    taken = [None if at in found else window.rows[at - window.first] for at in unit.places]
                    there = self._features is None or self._features.has(unit)
                    if not there or any(row is not None for row in taken):
                        with self._lock:
                            self._under_way[unit.number] = taken
                        yield unit
                del window, found  # two windows need not be in memory
        except Exception as error:
            self._error = error

    def finish(self, scored: Scored) -> None:
        """Write what a unit gave. One that comes back twice, or of which some rows are there, adds none twice."""
        with self._lock:
            rows = self._under_way.pop(scored.unit.number, None)
            if rows is None:
                return
            new = [
                (at, row, verdict)
                for at, row, verdict in zip(scored.unit.places, rows, scored.verdicts, strict=True)
                if row is not None
            ]
            if self._features is not None:  # first, for a row that is there counts as done
                self._features.write(scored)
            self._output.put([(at, line_of(row.id, verdict)) for at, row, verdict in new])
            for _, row, verdict in new:
                self.summary.add(verdict, row)
            self._progress.add(len(new))
            self._progress.unit(scored, len(self._under_way))

    def end(self) -> None:
        """All units are back. Raises what ended the input early, GroundwireError where a unit is missing."""
        if self._error is not None:
            raise self._error
        if self._under_way:
            raise GroundwireError(
                f"{len(self._under_way)} units of work never came back",
                expected="an outcome of each from the runner",
                remedy="run the same command again, which continues",
            )
        self._output.finish(self._rows)

    def _begin(self, window: Window) -> dict[int, dict[str, object]]:
        """Begin a window: what is there of it is counted, its rows that cannot be scored are written."""
        found = self._output.begin(window)
        self._rows += len(window.rows)
        invalid = []
        for at, row in zip(window.places, window.rows, strict=True):
            verdict = found.get(at)
            if verdict is not None:
                self.summary.add(verdict, row, earlier=True)
            elif isinstance(row, InvalidRow):
                verdict = self._unscored(row)
                invalid.append((at, line_of(row.id, verdict)))
                self.summary.add(verdict, row)
        if invalid:
            self._output.put(invalid, keep=False)  # the next run would find them wanting again
            self._progress.add(len(invalid))
        if len(found) < len(window.rows):
            self._progress.window(window)
        return found

    def _unscored(self, row: InvalidRow) -> dict[str, object]:
        detection = Detection(status="not_checked", reason=row.reason, detail=row.detail)
        return decide(detection, self._options.threshold, action="annotate").to_dict()

    def _checked(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            if isinstance(row, InvalidRow) and row.reason == "invalid_input":
                raise InputError(
                    f"{row.where}, line {row.line}: {row.error.given}",
                    expected=row.error.expected,
                    remedy=f"{row.error.remedy}; then the same command continues; or leave out --strict (strict=True)",
                )
            yield row


def _local(detector: BatchDetector | Described, options: Options) -> Runner:
    if isinstance(detector, Described):
        raise InputError("a description of a detector, and no runner that has it", expected="a runner, or a detector")
    return LocalRunner(detector, options)


def _terms(detector: Described) -> Mapping[str, Any]:
    if detector.features is None:
        raise InputError(
            f"the detector {detector.identity['id']!r} has no terms whose activations could be written",
            expected="a detector with an artifact",
            remedy="leave out --features (features=None)",
        )
    return detector.features


def _check_threshold(value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise InputError(
            f"threshold {value}", expected="a number from 0 to 1", remedy="give the score above which a row is flagged"
        )
