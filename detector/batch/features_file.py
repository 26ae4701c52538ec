"""FEATURES.parquet: the activations behind the verdicts, for a head of the researcher's own.

    Scored.features ─▶ FEATURES.parquet.parts/000000000064-5f0c9a1e.parquet, a unit each ─▶ FEATURES.parquet

A part gets its name when it is whole and on disk, so that whatever ends a run leaves whole parts. `finish` puts them
together in the order of their first rows, a few in memory at a time. Rows without activations (not checked) are left
out, and the column `row` says which are there. The file's metadata "groundwire" is JSON: detector, hookpoint, terms.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from groundwire.batch.paths import sync_folder
from groundwire.batch.sources import parquet_library
from groundwire.batch.unit import Scored, Unit
from groundwire.batch.writer import exists, write_failed
from groundwire.errors import GroundwireError, InputError

GROUP = 32 * 2**20  # bytes of activations in a row group of the finished file, unless a part alone has more
META = b"groundwire"


def parts_path(target: Path) -> Path:
    """The folder of the parts of `target`."""
    return target.with_name(target.name + ".parts")


def check_features(
    target: str | Path, *, others: Iterable[str | Path] = (), overwrite: bool = False, resume: bool = False
) -> None:
    """Raise InputError where `target` cannot be the features' file, MissingExtra where pyarrow is not installed.

    others: files of the run, which it must not be.
    """
    parquet_library()
    target = Path(target)
    if target.suffix.lower() != ".parquet":
        raise InputError(
            f"{str(target)!r} is to hold activations", expected="a .parquet file", remedy="choose another path"
        )
    if any(Path(other).absolute() == target.absolute() for other in others):
        raise InputError(
            f"{str(target)!r} is another file of the run", expected="a file of its own", remedy="choose another path"
        )
    if not target.parent.is_dir():
        raise InputError(
            f"there is no folder {str(target.parent)!r}", expected="a folder to write into", remedy="create it first"
        )
    if os.path.lexists(target) and not overwrite and not (resume and target.is_file()):
        raise exists(target)


class FeaturesFile:
    """Context manager that collects the activations of a run's units.

    of: "response", mean and maximum over the tokens for each term; or "token", a row for each token.
    about: of the detector, see `about_features`; run: what else the parts must belong to, such as the output's name.
    fresh: nothing of the run is there yet, so parts are none of its; else the run goes on, with the parts it left.
    complete: the run was finished, and a finished features' file is its own.
    Raises InputError where the file exists and is none of the run's, or parts are of another detector or run.
    GroundwireError where the disk is full or fails.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        of: Literal["response", "token"],
        about: Mapping[str, Any],
        run: str = "",
        fresh: bool = True,
        complete: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.target, self.of, self.overwrite = Path(target), of, overwrite
        self.fresh, self.complete = fresh, complete
        self._meta = json.dumps({"of": of, "run": run, **about}, ensure_ascii=False, sort_keys=True)
        self._terms = len(about["terms"])
        self._parts = parts_path(self.target)
        self._library = parquet_library()
        self._finished = False

    def __enter__(self) -> FeaturesFile:
        try:
            if self.overwrite and self.fresh:
                self.target.unlink(missing_ok=True)
            self._finished = self.target.exists()
            if self._finished:
                if not self.complete:
                    raise exists(self.target)
                self._check(self.target)
                return self
            if not (self.fresh and self.overwrite):
                for path in self._parts.glob("*.parquet"):
                    self._check(path)
                    break  # all are of one run
            if self.fresh:
                shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir(exist_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._parts.is_dir() and not any(self._parts.iterdir()):
            self._parts.rmdir()

    def has(self, unit: Unit) -> bool:
        """Whether the unit's activations are on disk. Without them the unit is not done, whatever else there is."""
        return self._finished or self._part(unit).exists()

    def write(self, scored: Scored) -> None:
        """Put a unit's activations on disk; call it before its rows are written. Done again, it changes nothing."""
        if self._finished:
            return
        part = self._part(scored.unit)
        new = part.with_suffix(".new")
        try:
            self._library.write_table(self._table(scored), new, compression="zstd", use_dictionary=["id"])
            _sync(new)
            os.replace(new, part)
            sync_folder(self._parts)
        except OSError as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """All units are written: put their parts together, then remove them."""
        try:
            if not self._finished:
                new = self.target.with_name(self.target.name + ".packing")
                with self._library.ParquetWriter(new, self._schema(), compression="zstd", use_dictionary=["id"]) as out:
                    for group in self._groups():
                        out.write_table(group)
                _sync(new)
                os.replace(new, self.target)
                sync_folder(self.target.parent)
                self._finished = True
            shutil.rmtree(self._parts, ignore_errors=True)
        except OSError as error:
            raise self._failed(error) from error

    def _groups(self) -> Iterator[Any]:
        """What the parts hold, in tables of some size."""
        import pyarrow

        tables, size = list[Any](), 0
        for path in sorted(self._parts.glob("*.parquet")):
            tables.append(self._library.read_table(path, schema=self._schema()))
            size += tables[-1].nbytes
            if size >= GROUP:
                yield pyarrow.concat_tables(tables).combine_chunks()
                tables, size = [], 0
        if tables:
            yield pyarrow.concat_tables(tables).combine_chunks()

    def _part(self, unit: Unit) -> Path:
        # The places' digest: units cut in another way never take each other's name.
        digest = sha256(json.dumps(unit.places).encode()).hexdigest()[:8]
        return self._parts / f"{min(unit.places):012d}-{digest}.parquet"

    def _schema(self) -> Any:
        import pyarrow as pa

        numbers = pa.list_(pa.float32(), self._terms)
        names = {"row": pa.int64(), "id": pa.string()}
        if self.of == "token":
            names |= {"token": pa.int32(), "activations": numbers}
        else:
            names |= {"mean": numbers, "max": numbers}
        return pa.schema(list(names.items()), metadata={META: self._meta})

    def _table(self, scored: Scored) -> Any:
        import pyarrow as pa

        unit = scored.unit
        found = [
            (place, example.id, np.ascontiguousarray(rows, dtype=np.float32))
            for place, example, rows in sorted(
                zip(unit.places, unit.examples, scored.features, strict=True), key=lambda each: each[0]
            )
            if rows is not None
        ]
        if self.of == "token":
            lengths = [len(rows) for _, _, rows in found]
            arrays = [
                pa.array(np.repeat([place for place, _, _ in found], lengths), pa.int64()),
                pa.array([name for (_, name, _), length in zip(found, lengths, strict=True) for _ in range(length)]),
                pa.array([at for length in lengths for at in range(length)], pa.int32()),
                self._vectors(rows for _, _, rows in found),
            ]
        else:
            arrays = [
                pa.array([place for place, _, _ in found], pa.int64()),
                pa.array([name for _, name, _ in found]),
                self._vectors(rows[:1] for _, _, rows in found),
                self._vectors(rows[1:] for _, _, rows in found),
            ]
        schema = self._schema()
        return pa.table([array.cast(kind) for array, kind in zip(arrays, schema.types, strict=True)], schema=schema)

    def _vectors(self, rows: Iterable[np.ndarray]) -> Any:
        """A column of vectors, of a list of `[n, terms]`."""
        import pyarrow as pa

        flat = np.concatenate([np.zeros((0, self._terms), np.float32), *rows]).ravel()
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), self._terms)

    def _check(self, path: Path) -> None:
        meta = (self._library.read_schema(path).metadata or {}).get(META, b"").decode()
        if meta != self._meta:
            raise InputError(
                f"{str(path)!r} holds activations of another run or detector",
                expected="those of this one",
                remedy="move it, choose another path, or overwrite it (--overwrite, overwrite=True)",
            )

    def _failed(self, error: OSError) -> GroundwireError:
        return write_failed(Path(error.filename or self.target), error, "parts that are whole are kept")


def about_features(artifact: Any) -> dict[str, Any]:
    """What the file says of the detector with this artifact: the vectors' entries are its `terms`, in this order."""
    terms = [
        {"kind": term.kind, "name": term.name, "feature_id": term.feature_id}
        for term in artifact.terms
        if term.kind != "grounding"
    ]
    return {
        "detector": artifact.id,
        "version": artifact.version,
        "model": artifact.model,
        "hookpoint": artifact.hookpoint,
        "terms": terms,
    }


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
