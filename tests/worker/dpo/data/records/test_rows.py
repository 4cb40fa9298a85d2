"""Files of every kind to rows: the same whether gzipped, however the chunks fall, until the file breaks."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.dpo.data.records import streams
from worker.dpo.data.records.refusals import BadLine, FileBroken
from worker.dpo.data.records.rows import read_rows
from worker.dpo.data.records.streams import CHUNK, Chunks, lines, plain

MOST = 1 << 24
ROWS = [
    {"prompt": "Name a fruit.", "chosen": "Pear,\n“ripe”", "rejected": "Car"},
    {"prompt": "Name a tree. ß漢", "chosen": "Oak", "rejected": 'A "stone"'},
]


class Dripping(io.RawIOBase):
    """A stream that gives at most `size` bytes at once, as networks do."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = io.BytesIO(data), size

    def read(self, size: int = -1) -> bytes:
        return self._data.read(self._size)


def rows_of(data: bytes, *, at_once: int = MOST, max_line: int = MOST, max_total: int = MOST) -> list[tuple[int, Any]]:
    """(number, row or reason) of each."""
    reading = read_rows(Dripping(data, at_once), max_line=max_line, max_total=max_total)  # type: ignore[arg-type]
    return [(number, row.reason if isinstance(row, BadLine) else row) for number, row, _ in reading]


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def as_table(rows: list[dict[str, Any]], mark: str) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=mark)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), out, row_group_size=2)
    return out.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "JSON Lines": as_lines,
    "JSON Lines with marks of UTF-8": lambda rows: b"".join(b"\xef\xbb\xbf" + as_lines([row]) for row in rows),
    "JSON Lines with CR LF": lambda rows: as_lines(rows).replace(b"\n", b"\r\n"),
    "JSON array": lambda rows: json.dumps(rows).encode(),
    "JSON array over many lines": lambda rows: (
        b"\xef\xbb\xbf" + json.dumps(rows, indent=2, ensure_ascii=False).encode()
    ),
    "objects over many lines": lambda rows: b"\n".join(json.dumps(row, indent=2).encode() for row in rows),
    "CSV": lambda rows: as_table(rows, ","),
    "CSV with a mark of UTF-8": lambda rows: b"\xef\xbb\xbf" + as_table(rows, ","),
    "CSV with semicolons": lambda rows: as_table(rows, ";"),
    "TSV": lambda rows: as_table(rows, "\t"),
    "Parquet": as_parquet,
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("at_once", [1, 7, MOST])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(kind: str, at_once: int, zipped: bool) -> None:
    data = WRITERS[kind](ROWS)
    assert [row for _, row in rows_of(gzip.compress(data) if zipped else data, at_once=at_once)] == ROWS


def test_a_parquet_file_on_disk_is_read_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    rows = [
        {"prompt": f"Q{number}", "messages": [{"role": "user", "content": "Q", "name": None}], "at": None}
        for number in range(1100)
    ]
    path.write_bytes(as_parquet(rows))
    with path.open("rb") as stream:
        read = list(read_rows(stream, max_line=MOST, max_total=MOST))
    assert [number for number, _, _ in read] == list(range(1, 1101))
    assert read[7][1] == {"prompt": "Q7", "messages": [{"role": "user", "content": "Q"}], "at": None}


def test_a_table_says_which_record_is_wrong_and_reads_the_others() -> None:
    data = b'prompt,chosen,rejected\n"two\nlines",a,b\nq,a\n\nq2,,b\n'
    assert rows_of(data) == [
        (2, {"prompt": "two\nlines", "chosen": "a", "rejected": "b"}),
        (4, "bad_field"),
        (6, {"prompt": "q2", "chosen": None, "rejected": "b"}),
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04....", "ZIP archive or an Excel file"),
        (b"\x28\xb5\x2f\xfd....", "zstd -d"),
        (b"BZh9....", "bunzip2"),
        (b"%PDF-1.7", "PDF"),
        ("prompt".encode("utf-16"), "iconv"),
        (b"\xff\xff\xff\xff\x10", "Dataset.from_file"),
        (b"SQLite format 3\0", "sqlite3"),
        (b"\x80\x04\x95", "pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"--boundary\r\nContent-Disposition: form-data", "--data-binary"),
        (b'curl -d @pairs.jsonl http://x', "--data-binary"),
        (as_lines(ROWS).replace(b"\n", b""), "curl -d"),
        (as_lines(ROWS * 2000).replace(b"\n", b""), "curl -d"),
        (b"\x01\x02\x00\x00binary", "binary"),
        (b"nonsense\n" * 9, "begins with “nonsense”"),
        (b"PAR1 and nothing more", "Parquet file can't be read"),
        (b'[{"prompt": "q"}, {"pro', "isn't JSON"),
        (b'[{"prompt": "q"},\n', "cut off"),
        (b'["q", "a"]\n["q", "b"]\n', "there is more"),
        (b"prompt,chosen,prompt\na,b,c\n", "the same name"),
        (b'prompt,chosen,rejected\n"a,b,c\n', "quotation marks"),
        (b"prompt,chosen,rejected\n\xff,b,c\n", "UTF-8"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_read_is_named_once_with_a_way_on(data: bytes, words: str) -> None:
    with pytest.raises(FileBroken) as broken:
        rows_of(data)
    assert words in str(broken.value)


@pytest.mark.parametrize(
    ("line", "became"),
    [
        (b'{"a": NaN, "b": -Infinity}', {"b": float("-inf")}),
        (b"{", "bad_json"),
        (b"[" * 3000, "bad_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\\ud800"}', "not_utf8"),
        (b'"text"', "not_an_object"),
    ],
)
def test_a_line_is_parsed_or_refused_for_its_reason(line: bytes, became: Any) -> None:
    ((_, row),) = [one for one in rows_of(b'{"x": 1}\n' + line) if one[0] == 2]
    assert row == became or (isinstance(row, dict) and became.items() <= row.items())


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=9) | st.integers() | st.none(), max_size=3), min_size=1, max_size=6), st.integers(1, 40), st.booleans())  # fmt: skip
def test_an_array_is_read_as_its_lines_would_be(rows: list[dict[str, Any]], at_once: int, spread: bool) -> None:
    data = json.dumps(rows, indent=1 if spread else None).encode()
    assert [row for _, row in rows_of(data, at_once=at_once)] == rows


def test_a_long_array_takes_no_more_memory_than_a_short_one() -> None:
    class Endless(io.RawIOBase):
        made = 0

        def read(self, size: int = -1) -> bytes:
            self.made += 1
            row = json.dumps({"prompt": "q" * 500, "chosen": "a", "rejected": "b"}).encode()
            return (
                b"[" + row
                if self.made == 1
                else b",\n" + row
                if self.made < 20_000
                else b"]"
                if self.made == 20_000
                else b""
            )

    tracemalloc.start()
    count = sum(1 for _ in read_rows(Endless(), max_line=MOST, max_total=MOST))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 19_999 and peak < 4_000_000


def chunks(data: bytes, at_once: int) -> Iterator[bytes]:
    return iter([data[start : start + at_once] for start in range(0, len(data), at_once)])


@given(
    st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line and not line.startswith(b"\xef\xbb\xbf")), max_size=30),
    st.booleans(),
    st.integers(1, 40),
    st.integers(1, 50),
)  # fmt: skip
def test_lines_come_out_as_they_went_in(given: list[bytes], zipped: bool, longest: int, at_once: int) -> None:
    data = b"#\n" + b"\n".join(given)
    expected = []
    for number, line in enumerate([b"#", *given], 1):
        if len(line) > longest:
            expected.append((number, None))
        elif line.strip(b" \t\r"):
            expected.append((number, line.strip(b" \t\r")))
    stream = Dripping(gzip.compress(data) if zipped else data, at_once)
    assert list(lines(plain(stream, MOST), longest)) == expected  # type: ignore[arg-type]


def test_an_endless_line_is_given_up_at_the_limit() -> None:
    read = 0

    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            nonlocal read
            read += CHUNK
            return b"x" * CHUNK

    with pytest.raises(FileBroken, match="more than"):
        list(lines(plain(Endless(), 50 * CHUNK), 1000))  # type: ignore[arg-type]
    assert read == 51 * CHUNK


def test_what_was_peeked_at_is_still_read_and_a_break_is_told_after_it() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"a"
        raise FileBroken("no more")

    source = Chunks(breaking())
    assert source.peek(10) == b"a" and next(source) == b"a"
    with pytest.raises(FileBroken):
        next(source)
    assert list(streams.values(chunks(b'{"a": 1} {"a": 2}', 3), 100)) == [({"a": 1}, 8), ({"a": 2}, 8)]
