"""Lines out of a stream: the same whether it is gzipped, however its chunks fall, until it breaks."""

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.collecting.imports.lines import StreamBroken, read_lines

MOST = 1 << 20


class Dripping(io.RawIOBase):
    """A stream that gives at most `size` bytes at once, as networks do."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = io.BytesIO(data), size

    def read(self, size: int = -1) -> bytes:
        return self._data.read(self._size)


def lines_of(data: bytes, *, at_once: int = MOST, max_line: int = 100, max_total: int = MOST) -> list:
    return list(read_lines(Dripping(data, at_once), max_line=max_line, max_total=max_total))  # type: ignore[arg-type]


@given(
    st.lists(st.binary(max_size=40).map(lambda line: b"{" + line.replace(b"\n", b"") + b"}"), max_size=8),
    st.integers(1, 50),
    st.booleans(),
    st.booleans(),
)
def test_chunks_gzip_and_a_missing_last_line_break_change_nothing(
    lines: list[bytes], at_once: int, zipped: bool, ended: bool
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    expected = list(enumerate((line.strip(b" \t\r") for line in lines), 1))
    assert lines_of(gzip.compress(data) if zipped else data, at_once=at_once) == expected


def test_blank_lines_count_but_are_not_given() -> None:
    assert lines_of(b"a\r\n\n  \nb") == [(1, b"a"), (4, b"b")]


def test_the_mark_of_utf8_at_the_start_is_dropped() -> None:
    assert lines_of(b"\xef\xbb\xbfa") == lines_of(gzip.compress(b"\xef\xbb\xbfa")) == [(1, b"a")]


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_a_line_that_is_too_long_is_skipped_and_the_next_one_read(at_once: int) -> None:
    assert lines_of(b"a\n" + b"x" * 101 + b"\nb\n", at_once=at_once) == [(1, b"a"), (2, None), (3, b"b")]
    assert lines_of(b"x" * 100 + b"\n", at_once=at_once) == [(1, b"x" * 100)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PAR1....", "a Parquet file"),
        (b"PK\x03\x04....", "a ZIP archive"),
        ("{}".encode("utf-16"), "text in UTF-16"),
        (gzip.compress(b"a\n" * 99)[:-12], "cut off"),
        (gzip.compress(b"a\nb\n")[:-8] + bytes(8), "damaged"),
    ],
    ids=["parquet", "zip", "utf-16", "cut off", "damaged"],
)
def test_a_stream_that_cannot_be_read_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(StreamBroken, match=reason):
        lines_of(data)


def test_lines_before_the_break_are_given_and_half_a_line_is_not() -> None:
    whole = gzip.compress(b"first\nsecond\nthird", compresslevel=0)
    read = read_lines(io.BytesIO(whole[:-9]), max_line=100, max_total=MOST)
    assert [next(read), next(read)] == [(1, b"first"), (2, b"second")]
    with pytest.raises(StreamBroken, match="cut off"):
        next(read)


def test_the_limit_counts_bytes_after_decompression() -> None:
    bomb = gzip.compress(b"a\n" * 5000)
    assert len(bomb) < 1000
    with pytest.raises(StreamBroken, match="more than 1,000 bytes after decompression"):
        lines_of(bomb, max_total=1000)


def test_a_sender_who_leaves_breaks_the_stream() -> None:
    class Gone(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError("the sender went away")

    with pytest.raises(StreamBroken, match="broke off: the sender went away"):
        list(read_lines(Gone(), max_line=100, max_total=MOST))  # type: ignore[arg-type]


def test_members_of_a_gzip_file_follow_one_another() -> None:
    assert lines_of(gzip.compress(b"a\nb") + gzip.compress(b"c\n") + b"\0\0") == [(1, b"a"), (2, b"bc")]
