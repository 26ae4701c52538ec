"""Parquet: read in batches of rows, and only the columns that matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundwire.batch.columns import Columns, check_columns
from groundwire.batch.sources import Source, parquet_library, unreadable

BATCH = 256  # rows decoded at a time


def parquet_rows(source: Source, columns: Columns | None) -> Iterator[tuple[int, Any]]:
    """The number of each row, from 1, and its values; all of them where `columns` is None.

    Raises InputError where the file cannot be read, or lacks a column.
    """
    library = parquet_library()
    import pyarrow

    try:
        with library.ParquetFile(source.path) as file:
            present = set(file.schema_arrow.names)
            wanted = present if columns is None else present & columns.wanted()
            if columns is not None:
                check_columns(columns, present, source.name)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=sorted(wanted)):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise unreadable(source, error) from error


def parquet_count(source: Source) -> int:
    """Number of rows, as the file says. Raises InputError where it cannot be read."""
    library = parquet_library()
    import pyarrow

    try:
        with library.ParquetFile(source.path) as file:
            return int(file.metadata.num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise unreadable(source, error) from error
