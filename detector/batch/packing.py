"""Turns the finished JSONL rows into the format of the output: compressed JSONL or Parquet, a few rows in memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from groundwire.batch.sources import Source, check_extra, parquet_library, zstd_library
from groundwire.errors import InputError
from groundwire.types import KINDS

GROUP = 2000  # rows of a Parquet row group


def packed(target: Source) -> bool:
    """Whether the target is anything but plain JSONL."""
    return target.format != "jsonl" or bool(target.compression)


def check_packable(target: Source) -> None:
    """Raise InputError where the format is one only read, MissingExtra where it needs one that is not installed."""
    if target.format == "csv":
        raise InputError(
            f"{target.path!r} is CSV, which cannot hold spans and terms",
            expected="an output .jsonl, .jsonl.gz, .jsonl.zst or .parquet",
            remedy="choose another output path",
        )
    check_extra(target)


def pack(rows: Path, path: Path, target: Source) -> None:
    """Write the JSONL file `rows` to `path` in the format of `target`, on disk when this returns. Raises OSError."""
    try:
        if target.format == "parquet":
            _parquet(rows, path)
        else:
            _compressed(rows, path, target)
        with open(path, "rb") as done:
            os.fsync(done.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _compressed(rows: Path, path: Path, target: Source) -> None:
    import gzip

    with open(rows, "rb") as source, open(path, "wb") as file:
        if target.compression == "gz":
            # No name and no time in its header: equal rows give equal files.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as sink:
                shutil.copyfileobj(source, sink)
        else:
            zstd_library().ZstdCompressor().copy_stream(source, file)


def _parquet(rows: Path, path: Path) -> None:
    library = parquet_library()
    import pyarrow

    schema = _schema(pyarrow)
    with open(rows, "rb") as source, library.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(_objects(source), GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _objects(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        row = json.loads(line)
        yield {"id": str(row["id"]), "hallucination": as_columns(row["hallucination"])}


def as_columns(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What `Verdict.to_dict` gave, as `verdict_types` has it: what the detector says of itself becomes JSON."""
    about = verdict.get("detector")
    return {**verdict, "detector": None if about is None else json.dumps(about, ensure_ascii=False)}


def _schema(pa: Any) -> Any:
    return pa.schema([("id", pa.string()), ("hallucination", pa.struct(list(verdict_types(pa).items())))])


def verdict_types(pa: Any) -> dict[str, Any]:
    """The Arrow type of each field of a verdict, in order; `pa` is pyarrow."""
    number, whole, text = pa.float64(), pa.int64(), pa.string()
    place = {"start": whole, "end": whole}
    evidence = pa.struct({"passage_id": text, **place, "text": text, "similarity": number})
    span = pa.struct({**place, "text": text, "score": number, "evidence": evidence, "reason": text})
    term = pa.struct(
        {
            "kind": text,
            "name": text,
            "feature_id": whole,
            "contribution": number,
            "token": text,
            "start": whole,
        }.items()
    )
    sentence = pa.struct({**place, "text": text, "score": number, "reason": text})
    token = pa.struct({"token": text, **place, "score": number})
    return {
        "status": text,
        "reason": text,
        "detail": text,
        "passage_windows": whole,
        "score": number,
        "flagged": pa.bool_(),
        "threshold": number,
        "action": text,
        "explanation": text,
        "logit": number,
        "intercept": number,
        "other": number,
        "shares": pa.struct([(kind, number) for kind in KINDS]),
        "unlike_training": pa.struct([("distance", number), ("quantile", number), ("flag", pa.bool_())]),
        "detector": text,
        "spans": pa.list_(span),
        "sentences": pa.list_(sentence),
        "terms": pa.list_(term),
        "tokens": pa.list_(token),
    }
