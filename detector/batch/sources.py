"""Which files are read and written, and in which format: a source is a file, with what its name says of its content."""

from __future__ import annotations

import errno
import glob
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from groundwire.batch.zst import ZstdStream
from groundwire.errors import InputError, MissingExtra

STDIN = "-"
Format = Literal["jsonl", "csv", "parquet"]
Compression = Literal["", "gz", "zst"]


@dataclass(frozen=True)
class Source:
    """A file, or "-" for a standard stream, which is plain JSONL. An unknown suffix is plain JSONL too."""

    path: str
    format: Format = "jsonl"
    compression: Compression = ""

    @property
    def name(self) -> str:
        """What messages call it."""
        if self.path == STDIN:
            return "standard input"
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")  # a name of any bytes can be written


def source_of(path: str | Path) -> Source:
    """The file with the format that its suffixes say: .csv and .parquet, else JSONL; .gz and .zst compressed.

    Raises InputError for compressed Parquet, which is compressed inside already.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compression: Compression = ""
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        compression = "gz" if suffixes.pop() == ".gz" else "zst"
    last = suffixes[-1] if suffixes else ""
    kind: Format = "csv" if last == ".csv" else "parquet" if last == ".parquet" else "jsonl"
    if kind == "parquet" and compression:
        raise InputError(
            f"{str(path)!r} is compressed Parquet",
            expected="Parquet as it is: it is compressed inside",
            remedy="decompress the file first",
        )
    return Source(str(path), kind, compression)


def expand(given: str | Path | Sequence[str | Path]) -> list[Source]:
    """The files that paths and globs name: in the order given, a glob's own in the order of their names.

    A path that exists is that file, whatever characters it has. Raises InputError where a glob matches nothing.
    """
    names = [given] if isinstance(given, str | Path) else list(given)
    found: list[Source] = []
    for name in map(str, names):
        if name == STDIN or os.path.lexists(name) or not glob.has_magic(name):
            found.append(source_of(name))
            continue
        matches = sorted(path for path in glob.glob(name, recursive=True) if not Path(path).is_dir())
        if not matches:
            raise InputError(
                f"no file matches {name!r}", expected="a path, or a glob that matches files", remedy="check the path"
            )
        found += map(source_of, matches)
    if sum(source.path == STDIN for source in found) > 1:
        raise InputError('"-" is given twice', expected="standard input once", remedy='leave out one "-"')
    return found


def check_readable(source: Source) -> None:
    """Raise InputError where it cannot be read, MissingExtra where its format needs one that is not installed.

    Nothing is opened: a pipe would lose its writer.
    """
    if source.path != STDIN:
        if Path(source.path).is_dir():
            raise unreadable(source, OSError(errno.EISDIR, os.strerror(errno.EISDIR)))
        if not os.access(source.path, os.R_OK):
            code = errno.EACCES if Path(source.path).exists() else errno.ENOENT
            raise unreadable(source, OSError(code, os.strerror(code)))
    check_extra(source)


def check_extra(source: Source) -> None:
    """Raise MissingExtra where a library that the format needs is not installed."""
    if source.format == "parquet":
        parquet_library()
    if source.compression == "zst":
        zstd_library()


def parquet_library() -> Any:
    """`pyarrow.parquet`. Raises MissingExtra without it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    return pyarrow.parquet


def zstd_library() -> Any:
    """The module `zstandard`. Raises MissingExtra without it."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingExtra("zstandard", "zstd") from error
    return zstandard


@contextmanager
def opened(source: Source) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. Raises InputError where they cannot be read or decompressed, at any moment."""
    broken: tuple[type[Exception], ...] = (OSError, EOFError)
    if source.compression == "gz":
        import zlib

        broken = (*broken, zlib.error)
    if source.compression == "zst":
        broken = (*broken, zstd_library().ZstdError)
    try:
        # Bytes, not text: Python's universal newlines would also break lines at a bare carriage return.
        if source.path == STDIN:
            yield sys.stdin.buffer
        elif source.compression == "gz":
            import gzip

            with gzip.open(source.path, "rb") as stream:
                yield cast(BinaryIO, stream)
        elif source.compression == "zst":
            with open(source.path, "rb") as file:
                yield cast(BinaryIO, io.BufferedReader(ZstdStream(file, zstd_library())))
        else:
            with open(source.path, "rb") as stream:
                yield stream
    except broken as error:
        raise unreadable(source, error) from error


def unreadable(source: Source, error: Exception) -> InputError:
    """The error to raise for a file that cannot be read."""
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return InputError(
        f"cannot read {source.path!r}: {reason}",
        expected='a JSONL (.gz, .zst), CSV or Parquet file, or "-" for standard input',
        remedy="check the path, its permissions, and that the file is whole",
    )
