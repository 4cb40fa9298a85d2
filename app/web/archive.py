"""What can be downloaded: a stored file, or a tar archive of several that is never written anywhere.

The archive's bytes are a function of the files' names, sizes and contents, so any range of it can be served at any
time, and a broken-off download goes on where it stopped.
"""

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from app.storage import StoredFile

BLOCK = 512
RECORD = 20 * BLOCK


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of bytes: literal ones, or those of a stored file."""

    size: int
    data: bytes = b""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """Something to download: its parts in order, its length in bytes, and a hash that names the content."""

    parts: tuple[Part, ...]
    size: int
    sha256: str
    is_hash_of_bytes: bool = True


def stored(file: StoredFile) -> Content:
    """One file of the artifact store."""
    return Content((Part(file.size, key=file.key),) if file.size else (), file.size, file.sha256)


def tar(
    files: Sequence[StoredFile], *, folder: str, mtime: int, texts: Mapping[str, str] = MappingProxyType({})
) -> Content:
    """An archive of the files in order, in one folder, all with the same time (Unix seconds), owner and rights.

    `texts`: further files, by name, that nobody stored. The hash is over headers and file hashes: it names the content
    without reading it.
    """
    parts: list[Part] = []
    digest = hashlib.sha256()
    for file in files:
        info = tarfile.TarInfo(f"{folder}/{file.name}")
        info.size, info.mtime, info.mode = file.size, mtime, 0o644
        header = info.tobuf(tarfile.PAX_FORMAT)
        parts += [Part(len(header), data=header), Part(file.size, key=file.key)]
        if padding := -file.size % BLOCK:
            parts.append(Part(padding, data=bytes(padding)))
        digest.update(header + file.sha256.encode())
    for name, text in texts.items():
        data = text.encode()
        info = tarfile.TarInfo(f"{folder}/{name}")
        info.size, info.mtime, info.mode = len(data), mtime, 0o644
        header = info.tobuf(tarfile.PAX_FORMAT)
        whole = header + data + bytes(-len(data) % BLOCK)
        parts.append(Part(len(whole), data=whole))
        digest.update(whole)
    end = 2 * BLOCK
    end += -(sum(part.size for part in parts) + end) % RECORD
    parts.append(Part(end, data=bytes(end)))
    kept = tuple(part for part in parts if part.size)
    return Content(kept, sum(part.size for part in kept), digest.hexdigest(), is_hash_of_bytes=False)
