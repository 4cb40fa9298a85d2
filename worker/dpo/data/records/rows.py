"""A file's rows, one at a time and in constant memory: JSON Lines, JSON, CSV, TSV or Parquet, each also as gzip."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import orjson

from worker.dpo.data.records import kinds, streams
from worker.dpo.data.records.refusals import BadLine, FileBroken

Row = tuple[int, dict[str, Any] | BadLine, int]
SNIFFED = 64 * 1024
FIRST_LINES = 5
MOST_COLUMNS = 1_000


def read_rows(
    stream: BinaryIO, *, max_line: int, max_total: int, known: Iterable[str] = (), table: str | None = None
) -> Iterator[Row]:
    """(number from 1, the row or why it can't be read, its bytes) for each line or record.

    max_line: longest line or record in bytes. max_total: most bytes to read after decompression. known: columns that a
    person named, so that a table is known by them. Raises FileBroken, after the last whole row, where the file is damaged,
    cut off, too large or of another kind.
    """
    source = streams.plain(stream, max_total)
    head = streams.peek(source, SNIFFED)
    if head.startswith(kinds.PARQUET):
        # Here, not above: pyarrow is large, and most files don't need it.
        from worker.dpo.data.records.parquet import read_parquet

        yield from read_parquet(stream, source, max_total=max_total)
        return
    if (other := kinds.other_kind(head)) is not None:
        raise FileBroken(other)
    start = head.removeprefix(kinds.BOM).lstrip(b" \t\r\n")
    if start.startswith(b"[") or _is_spread_out(start):
        yield from _documents(source, max_line)
    elif start.startswith(b"{") or any(line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{") for line in _lines_of(start)):
        _check_line_ends(start)
        yield from _json_lines(source, max_line)
    elif start:
        text = head.decode("utf-8", errors="replace")
        mark = table or kinds.delimiter_of(text, frozenset(known)) or kinds.looks_like_a_table(text)
        if mark is None:
            raise FileBroken(
                f"The file is neither JSON Lines, JSON, CSV nor Parquet: it begins with “{_beginning(start)}”. Write one "
                'object a line, {"prompt": …, "chosen": …, "rejected": …}.'
            )
        yield from _table(source, mark, max_line)
    else:
        for _ in source:  # a file that broke before its first line says so here
            pass


def _lines_of(start: bytes) -> list[bytes]:
    return start.split(b"\n", FIRST_LINES)[:FIRST_LINES]


def _beginning(start: bytes) -> str:
    text = start[:60].decode("utf-8", errors="replace").split("\n")[0]
    return "".join(character if character.isprintable() else "·" for character in text)


def _is_spread_out(start: bytes) -> bool:
    """Whether an object goes over several lines: its first line is none, and what follows isn't an object's beginning."""
    line, _, rest = start.partition(b"\n")
    line, rest = line.strip(), rest.lstrip(b" \t\r\n")
    return line.startswith(b"{") and not line.endswith(b"}") and rest[:1] in (b'"', b"}") and len(line) < 200


def _check_line_ends(start: bytes) -> None:
    """`curl -d` takes the line ends out of a file: then one line holds all objects."""
    line, end, _ = start.partition(b"\n")
    if not end and len(start) < SNIFFED - 4096:
        try:
            orjson.loads(line)
            return
        except orjson.JSONDecodeError:
            pass
    if b"}{" not in line:
        return
    try:
        _, length = json.JSONDecoder().raw_decode(line.decode("utf-8", errors="replace"))
    except (json.JSONDecodeError, RecursionError):
        return
    if line[length : length + 1] == b"{" or line.decode("utf-8", errors="replace")[length : length + 1] == "{":
        raise FileBroken(
            "The file has no line ends left: its objects stand on one line. `curl -d` takes them out; send it with "
            "--data-binary @FILE."
        )


def _json_lines(source: "streams.Chunks", max_line: int) -> Iterator[Row]:
    for number, line in streams.lines(source, max_line):
        if line is None:
            yield number, BadLine("too_long", f"The line is longer than {max_line:,} bytes."), 0
            continue
        try:
            yield number, row_of(line), len(line)
        except BadLine as bad:
            yield number, bad, len(line)


def row_of(line: bytes) -> dict[str, Any]:
    """The object of one line. Raises BadLine."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = _with_more_care(line)
    if type(row) is not dict:
        raise BadLine("not_an_object", "Not a JSON object. Write one object a line.")
    return row


def _with_more_care(line: bytes) -> Any:
    """A line that the quick parser refuses: a mark of UTF-8 in front (two files joined), NaN in a column, long numbers."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadLine("not_utf8", f"Byte {error.start + 1} isn't UTF-8.") from error
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadLine("bad_json", f"Not JSON: {str(error)[:200]}.") from error
    try:
        if isinstance(row, dict):
            json.dumps(row, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError) as error:
        raise BadLine("not_utf8", "A text holds half of a character (a lone surrogate).") from error
    return row


def _documents(source: "streams.Chunks", max_line: int) -> Iterator[Row]:
    """The objects of a JSON array, or of objects that each go over several lines. Numbers count objects."""
    for number, value in enumerate(streams.values(source, max_line), 1):
        row, size = value
        if isinstance(row, dict):
            yield number, row, size
        else:
            yield number, BadLine("not_an_object", "An item of the array isn't an object."), size


def _table(source: "streams.Chunks", mark: str, max_line: int) -> Iterator[Row]:
    """The records of a table whose first line names the columns; numbers are those of the lines on which they begin. An
    empty cell is no value."""
    text = streams.Text(source, max_line)
    csv.field_size_limit(max(max_line, 131_072))
    reader = csv.reader(text, delimiter=mark, strict=True)
    names: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise FileBroken(
                f"The table can't be read from line {line} on: {error}. Check its quotation marks."
            ) from error
        if not names:
            names = [name.strip().lstrip("\ufeff") for name in cells]
            if len(names) > MOST_COLUMNS:
                raise FileBroken(f"The table has {len(names):,} columns; up to {MOST_COLUMNS:,} are read.")
            if len(set(names)) != len(names):
                raise FileBroken("Two columns of the table have the same name. Rename one.")
            continue
        if not cells:
            continue
        if len(cells) != len(names):
            message = f"The record has {len(cells)} cells where the header names {len(names)} columns."
            yield line, BadLine("bad_field", message), sum(map(len, cells))
            continue
        row = {
            name or f"column {place}": cell if cell != "" else None
            for place, (name, cell) in enumerate(zip(names, cells, strict=True), 1)
        }
        yield line, row, sum(map(len, cells))


def as_stream(data: bytes) -> BinaryIO:
    return io.BytesIO(data)
