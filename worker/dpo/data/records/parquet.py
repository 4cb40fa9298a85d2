"""Rows of a Parquet file, a batch of a row group at a time, through pyarrow."""

import math
import tempfile
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO
from uuid import UUID

from worker.dpo.data.records.kinds import PARQUET
from worker.dpo.data.records.refusals import BadLine, FileBroken
from worker.dpo.data.records.streams import Chunks

BATCH = 500
IN_MEMORY = 8_000_000


def read_parquet(
    stream: BinaryIO, source: Chunks, *, max_total: int
) -> Iterator[tuple[int, dict[str, Any] | BadLine, int]]:
    """The rows of a Parquet file. Its index stands at its end, so one that comes as a stream is kept on disk meanwhile.

    Raises FileBroken where it is damaged, or where it unpacks to more than `max_total` bytes.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise FileBroken("To read Parquet pyarrow is needed: pip install pyarrow.") from error
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, prefix="prefloop-parquet-") as kept:
        file: Any = _file_itself(stream)
        if file is None:
            file = kept
            for chunk in source:
                kept.write(chunk)
            kept.seek(0)
        try:
            table = parquet.ParquetFile(file, memory_map=False, pre_buffer=False)
            sizes = [table.metadata.row_group(number).total_byte_size for number in range(table.num_row_groups)]
            if sum(sizes) > max_total:
                raise FileBroken(
                    f"The Parquet file holds {sum(sizes):,} bytes, more than {max_total:,}. Split it, or raise the limit "
                    "(PREFLOOP_MAX_IMPORT_BYTES)."
                )
            number = 0
            for batch in table.iter_batches(batch_size=BATCH, use_threads=False):
                size = batch.nbytes // max(1, batch.num_rows)
                for row in batch.to_pylist():
                    number += 1
                    yield number, {column: _simple(value) for column, value in row.items()}, size
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise FileBroken(f"The Parquet file can't be read: {str(error)[:200]}. Make it again.") from error


def _file_itself(stream: BinaryIO) -> BinaryIO | None:
    """The stream from its beginning, where it is a Parquet file on disk; None for a request's body, a pipe or gzip."""
    try:
        if not stream.seekable():
            return None
        stream.seek(0)
        head = stream.read(len(PARQUET))
        stream.seek(0)
    except (OSError, AttributeError):
        return None
    return stream if head == PARQUET else None


def _simple(value: Any) -> Any:
    """A value as JSON would have it."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_simple(item) for item in value]
    if isinstance(value, dict):
        # Columns of structs have every key in every row: one that is null in a row isn't there.
        return {key: _simple(item) for key, item in value.items() if item is not None}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, tuple):
        return [_simple(item) for item in value]
    return str(value)
