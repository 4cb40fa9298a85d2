# Written by `make run-config` from worker/dpo/data/records/streams.py: change it there.
"""Bytes out of a stream, gzip or not, as chunks, lines, JSON values or text, in constant memory."""

import codecs
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from app.services.collecting.imports.records.refusals import FileBroken

CHUNK = 256 * 1024
GZIP = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
SPACE = " \t\r\n,\ufeff\x1e"


class Chunks:
    """An iterator of bytes that can be looked into before it is read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._seen: list[bytes] = []
        self._broken: FileBroken | None = None

    def peek(self, size: int) -> bytes:
        """The first bytes, at least `size` of them where there are so many."""
        try:
            while sum(map(len, self._seen)) < size:
                self._seen.append(next(self._chunks))
        except StopIteration:
            pass
        except FileBroken as error:
            self._broken = error  # told once what came before is read
        return b"".join(self._seen)

    def __iter__(self) -> "Chunks":
        return self

    def __next__(self) -> bytes:
        if self._seen:
            return self._seen.pop(0)
        if self._broken is not None:
            raise self._broken
        return next(self._chunks)


def peek(source: Chunks, size: int) -> bytes:
    return source.peek(size)


def plain(stream: BinaryIO, max_total: int) -> Chunks:
    """The stream's bytes, decompressed where it is gzip, up to `max_total` of them. Raises FileBroken while it is read."""
    return Chunks(_limited(_decompressed(stream), max_total))


def _limited(chunks: Iterator[bytes], most: int) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > most:
            raise FileBroken(
                f"The file holds more than {most:,} bytes after decompression. Split it, or raise the limit "
                "(PREFLOOP_MAX_IMPORT_BYTES)."
            )
        yield chunk


def _decompressed(stream: BinaryIO) -> Iterator[bytes]:
    source = _raw(stream)
    head = b""
    for chunk in source:
        head += chunk
        if len(head) >= 2:
            break
    if head.startswith(GZIP):
        yield from _unzip(head, source)
    elif head:
        yield head
        yield from source


def _raw(stream: BinaryIO) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK):
            yield chunk
    except OSError as error:
        raise FileBroken(
            f"The upload broke off: {error}. Send it again; what is here already is counted as duplicates."
        ) from error


def _unzip(head: bytes, source: Iterator[bytes]) -> Iterator[bytes]:
    """Members of a gzip file, one after the other, never more than CHUNK bytes at once."""
    member, begun = zlib.decompressobj(31), False
    data = head
    try:
        while True:
            while data or begun:
                out = member.decompress(data, CHUNK)
                begun = True
                if out:
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
        raise FileBroken(f"The gzip data is damaged ({error}). Make the file again.") from error
    if begun:
        raise FileBroken("The gzip file is cut off. Upload it again; what is here already is counted as duplicates.")


def lines(source: Iterator[bytes], max_line: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line without its end) for each line that isn't blank; None for a line above `max_line` bytes. The
    end of the source ends its last line; of a source that breaks half a line isn't given."""
    number, pending, skipping = 0, b"", False
    at_end = False
    while not at_end:
        chunk = next(source, None)
        if chunk is None:
            chunk, at_end = b"\n", True
        *whole, pending = (pending + chunk).split(b"\n")
        for line in whole:
            number += 1
            if number == 1:
                line = line.removeprefix(BOM)
            if skipping or len(line) > max_line:
                skipping = False
                yield number, None
            elif line := line.strip(b" \t\r"):
                yield number, line
        if len(pending) > max_line:
            pending, skipping = b"", True


class Text:
    """The lines of a source as text, for the csv module. Raises FileBroken for what isn't UTF-8 or has no line ends."""

    def __init__(self, source: Iterator[bytes], max_line: int) -> None:
        self._pieces = decoded(source)
        self._pending = ""
        self._lines: list[str] = []
        self._most = max_line
        self._ended = False

    def __iter__(self) -> "Text":
        return self

    def __next__(self) -> str:
        while not self._lines:
            if self._ended:
                raise StopIteration
            piece = next(self._pieces, None)
            if piece is None:
                self._ended = True
                self._lines = [self._pending] if self._pending else []
                continue
            *self._lines, self._pending = (self._pending + piece).split("\n")
            self._lines = [line + "\n" for line in reversed(self._lines)]
            if len(self._pending) > self._most:
                raise FileBroken(
                    f"A line of the table is longer than {self._most:,} characters. Check its quotation marks."
                )
        return self._lines.pop()


def decoded(source: Iterator[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for chunk in source:
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise FileBroken(f"The file isn't UTF-8 ({error.reason}). Save it as UTF-8.") from error


def values(source: Iterator[bytes], max_size: int) -> Iterator[tuple[Any, int]]:
    """(value, its size) of each item of a JSON array, or of JSON values that follow one another. Raises FileBroken."""
    pieces = (piece for piece in decoded(source) if piece)
    decode = json.JSONDecoder().raw_decode
    text, place, number = "", 0, 0
    is_array: bool | None = None
    while True:
        while place < len(text) and text[place] in SPACE:
            place += 1
        if place >= len(text):
            text, place = next(pieces, ""), 0
            if not text and is_array:
                raise FileBroken("The JSON array is cut off: its closing bracket is missing. Make the file again.")
            if not text:
                return
            continue
        if is_array is None:
            is_array = text[place] == "["
            place += is_array
            continue
        if is_array and text[place] == "]":
            if text[place + 1 :].strip(SPACE) or any(piece.strip(SPACE) for piece in pieces):
                raise FileBroken(
                    "After the end of the JSON array there is more. Write one array, or one object a line without any."
                )
            return
        number += 1
        at_end = False
        while True:
            try:
                value, end = decode(text, place)
                if end < len(text) or at_end or isinstance(value, dict | list | str):
                    break  # else a number, which may go on in what comes
            except RecursionError as error:
                raise FileBroken(f"Item {number} is nested too deep to be read.") from error
            except json.JSONDecodeError as error:
                if at_end or len(text) - place > max_size:
                    raise FileBroken(
                        f"Item {number} isn't JSON ({error.msg}), so nothing from there on can be read. Check its brackets."
                    ) from error
            piece = next(pieces, None)
            at_end = piece is None
            text, place = text[place:] + (piece or ""), 0
        yield value, end - place
        place = end
