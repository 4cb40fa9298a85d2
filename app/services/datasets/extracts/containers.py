"""Rows as the bytes of a file: JSON Lines, plain or gzip, or Parquet, in constant memory."""

import io
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import orjson

from app.models import Container

BATCH = 500
MEDIA_TYPES = {
    Container.JSONL: "application/x-ndjson",
    Container.JSONL_GZ: "application/gzip",
    Container.PARQUET: "application/vnd.apache.parquet",
}


def chunks(rows: Iterable[dict[str, Any]], container: Container) -> Iterator[bytes]:
    """The file's bytes, a batch of rows at a time."""
    if container is Container.PARQUET:
        return _parquet(iter(rows))
    plain = _lines(iter(rows))
    return plain if container is Container.JSONL else _gzip(plain)


def _lines(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    while batch := list(islice(rows, BATCH)):
        yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in batch)


def _gzip(plain: Iterator[bytes]) -> Iterator[bytes]:
    # A header without a time: the same rows are the same file.
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    for chunk in plain:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


class _Sink(io.RawIOBase):
    """Where the Parquet writer puts bytes, which are taken out after each batch."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._size += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        return self._size

    def taken(self) -> bytes:
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


def _parquet(rows: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    # Here, not above: pyarrow is large, and most processes write no Parquet.
    import pyarrow
    from pyarrow import parquet

    schema = None
    sink = _Sink()
    writer = None
    while batch := list(islice(rows, BATCH)):
        if schema is None:
            schema = _schema(batch[0])
            writer = parquet.ParquetWriter(sink, schema, compression="zstd")
        table = pyarrow.Table.from_pylist([_typed(row) for row in batch], schema=schema)
        assert writer is not None
        writer.write_table(table)
        yield sink.taken()
    if writer is None:
        writer = parquet.ParquetWriter(sink, _schema({}), compression="zstd")
    writer.close()
    yield sink.taken()


def _schema(first: dict[str, Any]) -> Any:
    """The types of the columns. Prefloop's own form has columns that some rows lack, so they aren't taken from the first."""
    import pyarrow

    text, number = pyarrow.string(), pyarrow.int64()
    messages = pyarrow.list_(pyarrow.struct([("role", text), ("content", text)]))
    if first.keys() & {"responses", "compared"}:
        source = pyarrow.struct([("kind", text), ("name", text)])
        vote = [
            (name, text) for name in ("rater", "name", "choice", "rationale", "first_side", "shown_at", "submitted_at")
        ]
        vote += [("strength", number), ("guideline_version", number), ("flags", pyarrow.list_(text))]
        vote += [("late", pyarrow.bool_()), ("superseded", pyarrow.bool_())]
        vote += [("excluded", pyarrow.struct([("at", text), ("reason", text), ("of", text)]))]
        answers = pyarrow.list_(pyarrow.struct([("text", text), ("messages", messages), ("source", source)]))
        return pyarrow.schema(
            [
                ("prompt", messages),
                ("responses", answers),
                ("compared", answers),
                ("evaluation", number),
                ("sources_hidden", text),
                ("id", text),
                ("priority", number),
                ("gold", text),
                ("arm", text),
                ("excluded", pyarrow.struct([("at", text), ("reason", text)])),
                ("judgments", pyarrow.list_(pyarrow.struct(vote))),
            ]
        )
    if first.keys() >= {"preferred_output"}:
        return pyarrow.schema(
            [
                ("input", pyarrow.struct([("messages", messages), ("parallel_tool_calls", pyarrow.bool_())])),
                ("preferred_output", messages),
                ("non_preferred_output", messages),
            ]
        )
    known = {"prompt": messages, "chosen": messages, "rejected": messages}
    types = {str: text, int: number, float: pyarrow.float64()}
    columns = {
        name: known.get(name) or types.get(type(value)) or pyarrow.array([value]).type for name, value in first.items()
    }
    return pyarrow.schema(list((known | columns).items()))


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what Parquet's types can't say: an empty list of tools."""
    if "input" in row:
        return row | {"input": {key: value for key, value in row["input"].items() if key != "tools"}}
    return row
