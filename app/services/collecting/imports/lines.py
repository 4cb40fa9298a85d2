"""Lines out of a byte stream, gzip or not, in constant memory."""

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

CHUNK = 256 * 1024
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
OTHER_FORMATS = {
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a ZIP archive",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\xfd7zXZ": "an xz file",
    b"%PDF": "a PDF",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


class StreamBroken(Exception):
    """Why nothing more can be read; everything before it was."""


def read_lines(stream: BinaryIO, *, max_line: int, max_total: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its end) for each line that isn't blank; None for a line above `max_line` bytes.

    max_total: most bytes to read after decompression. Raises StreamBroken, after the last whole line, where the
    stream is damaged, cut off, too large or of another format.
    """
    number, pending, skipping = 0, b"", False
    # The end of the stream ends its last line; a stream that breaks never gets there, and half a line isn't a line.
    for chunk in chain(_limited(_plain(stream), max_total), (b"\n",)):
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            number += 1
            if skipping or len(line) > max_line:
                skipping = False
                yield number, None
            elif line := line.strip(b" \t\r"):
                yield number, line
        if len(pending) > max_line:
            pending, skipping = b"", True


def _limited(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > most:
            raise StreamBroken(
                f"The file holds more than {most:,} bytes after decompression. Split it, or raise "
                "PREFLOOP_MAX_IMPORT_BYTES."
            )
        yield chunk


def _plain(stream: BinaryIO) -> Iterator[bytes]:
    """The stream's bytes, decompressed where it is gzip."""
    source = _raw(stream)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= 8:
            break
    for magic, name in OTHER_FORMATS.items():
        if head.startswith(magic):
            raise StreamBroken(f"This is {name}. Send JSON Lines in UTF-8, as it is or as gzip.")
    if head.startswith(GZIP):
        yield from _unzip(head, source)
    else:
        yield head.removeprefix(BOM)
        yield from source


def _raw(stream: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except OSError as error:
        raise StreamBroken(
            f"The upload broke off: {error}. Send it again; what is here already is counted as duplicates."
        ) from error


def _unzip(head: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    """Members of a gzip file, one after the other, never more than CHUNK bytes at once."""
    member, begun = zlib.decompressobj(31), False
    data, at_start = head, True
    try:
        while True:
            while data or begun:
                out = member.decompress(data, CHUNK)
                begun = True
                if at_start and out:
                    out, at_start = out.removeprefix(BOM), False
                yield out
                data = member.unconsumed_tail
                if member.eof:
                    data, member, begun = member.unused_data.lstrip(b"\0"), zlib.decompressobj(31), False
                elif not data and len(out) < CHUNK:
                    break
            following = next(source, None)
            if following is None:
                break
            data = following if begun else following.lstrip(b"\0")
    except zlib.error as error:
        raise StreamBroken(f"The gzip data is damaged ({error}). Make the file again.") from error
    if begun:
        raise StreamBroken("The gzip file is cut off. Upload it again; what is here already is counted as duplicates.")
