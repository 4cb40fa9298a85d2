"""The artifact store: snapshots' and checkpoints' files in a folder or in any bucket that fsspec knows (S3 …).

A file appears under its key only when it is whole: written under a temporary key, hashed on the way, then published.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from app.config import Settings
from app.db import is_writing
from app.errors import DiskFull, NotFound, Unavailable, disk_full

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CHUNK = 1024 * 1024
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]*(/[A-Za-z0-9_][A-Za-z0-9._+@=-]*)*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the artifact store, whoever it belongs to: a snapshot, a checkpoint, an export.

    `name` is what people call it, `key` its place in the store; `size` in bytes, `sha256` of its content in hex.
    """

    name: str
    key: str
    size: int
    sha256: str


class Storage:
    """Files by key. Keys are relative paths of plain characters; no part of one starts with a dot."""

    def __init__(self, url: str) -> None:
        # Here, not above: every process imports StoredFile, and few open the store.
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.url = url
        self._fs: AbstractFileSystem
        local = url.removeprefix("file://")
        # A folder's name may hold what means something in a URL.
        self._fs, root = (LocalFileSystem(), local) if local.startswith("/") else url_to_fs(url)
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        if self._local:
            self._fs.auto_mkdir = True

    def put_file(self, key: str, path: Path, *, name: str = "") -> StoredFile:
        """Store a file, named after its key's last part where no name is given.

        An existing key is replaced at once by the whole new file.
        """
        with path.open("rb") as source:
            return self._put(key, source, name)

    def put_bytes(self, key: str, data: bytes, *, name: str = "") -> StoredFile:
        """Store bytes, as `put_file` does."""
        return self._put(key, BytesIO(data), name)

    def open(self, key: str, start: int = 0) -> BinaryIO:
        """Open a file for reading from byte `start` on. Raises NotFound."""
        path = self._path(key)
        with self._explained(key):
            file = self._fs.open(path, "rb")
            if start:
                file.seek(start)
            return cast(BinaryIO, file)

    def read_bytes(self, key: str) -> bytes:
        with self.open(key) as file:
            return file.read()

    def fetch(self, key: str, target: Path) -> StoredFile:
        """Copy a file out of the store. Returns what arrived, so that its SHA-256 can be compared. Raises NotFound."""
        digest, size = hashlib.sha256(), 0
        with self.open(key) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                size += file.write(chunk)
        return StoredFile(target.name, key, size, digest.hexdigest())

    def size(self, key: str) -> int:
        path = self._path(key)
        with self._explained(key):
            return int(self._fs.size(path))

    def has(self, key: str) -> bool:
        """Whether a file has this key; False for what can't be one."""
        return KEY.fullmatch(key) is not None and self.exists(key)

    def stored(self) -> Iterator[tuple[str, int, datetime | None]]:
        """Every file of the store: its key, its bytes, and since when it is there as far as the store can tell."""
        with self._explained(self._root):
            if not self._fs.exists(self._root):
                return
            details = self._fs.find(self._root, detail=True)
        for path, facts in details.items():
            since = facts.get("LastModified") or facts.get("mtime") or facts.get("created")
            if isinstance(since, int | float):
                since = datetime.fromtimestamp(since, UTC)
            yield (
                path[len(self._root) + 1 :],
                int(facts.get("size") or 0),
                since if isinstance(since, datetime) else None,
            )

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with self._explained(key):
            return bool(self._fs.exists(path))

    def delete(self, key: str) -> None:
        """Remove a file, if it is there."""
        path = self._path(key)
        with self._explained(key), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def check(self) -> None:
        """Write, read and delete a probe. Raises Unavailable with the reason."""
        key = f"probe-{secrets.token_hex(8)}"
        stored = self.put_bytes(key, b"prefloop")
        try:
            if self.read_bytes(key) != b"prefloop" or stored.size != self.size(key):
                raise Unavailable(
                    f"The artifact store {self.url} returns other bytes than were written.", "Check the store."
                )
        finally:
            self.delete(key)

    def _put(self, key: str, source: BinaryIO, name: str) -> StoredFile:
        path, temporary = self._path(key), self._path(f"tmp/{secrets.token_hex(16)}")
        digest, size = hashlib.sha256(), 0
        with self._explained(key, writing=True):
            try:
                with self._fs.open(temporary, "wb") as target:
                    while chunk := source.read(CHUNK):
                        digest.update(chunk)
                        size += target.write(chunk)
                    if self._local:
                        target.flush()
                        os.fsync(target.fileno())
                if int(self._fs.size(temporary)) != size:
                    raise OSError(f"{size} bytes were written, {self._fs.size(temporary)} arrived")
                self._publish(temporary, path)
            except BaseException:
                self._discard(temporary)
                raise
        return StoredFile(name or key.rpartition("/")[2], key, size, digest.hexdigest())

    def _publish(self, temporary: str, path: str) -> None:
        if self._local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(temporary, path)
        else:
            self._fs.mv(temporary, path)

    def _discard(self, temporary: str) -> None:
        with suppress(Exception):  # the error that brought us here is the one to tell
            self._fs.rm_file(temporary)

    def _path(self, key: str) -> str:
        if is_writing():
            raise RuntimeError(
                f"{key!r} is touched within a write transaction: everybody else would wait for the store"
            )
        if not KEY.fullmatch(key):
            raise ValueError(f"{key!r} isn't a key of the artifact store")
        return f"{self._root}/{key}"

    @contextmanager
    def _explained(self, key: str, *, writing: bool = False) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if writing:  # the bucket or folder itself is missing
                raise self._failed(error) from error
            raise NotFound(f"The artifact store has no file {key}.", "It may have been deleted by hand.") from error
        except OSError as error:
            raise self._failed(error) from error
        except Exception as error:
            if self._local:
                raise
            raise self._failed(error) from error  # a bucket's library has errors of its own

    def _failed(self, error: Exception) -> Unavailable:
        if disk_full(error):
            return DiskFull(f"The artifact store {self.url}")
        hint = "Check its address, its rights and the space that is left."
        return Unavailable(f"The artifact store {self.url} failed: {error or type(error).__name__}.", hint)


@lru_cache
def _storage_at(url: str) -> Storage:
    return Storage(url)


def get_storage(settings: Settings) -> Storage:
    """The configured store."""
    return _storage_at(settings.storage)
