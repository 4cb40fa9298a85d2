"""Files that must be on the disk, and what to say when there is no room for them."""

import errno
import hashlib
import os
from pathlib import Path

from worker.dpo.ground.errors import DiskFull


def sync(path: Path) -> None:
    """Have the operating system put a file or folder on the disk now. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def full_disk(problem: BaseException) -> OSError | None:
    """The error of a write that had no room, or None for any other error. safetensors has an error of its own for it."""
    if isinstance(problem, OSError):
        return problem if problem.errno in (errno.ENOSPC, errno.EDQUOT) else None
    if type(problem).__name__ == "SafetensorError" and "space" in str(problem).lower():
        return OSError(errno.ENOSPC, str(problem))
    return None


def write_error(problem: Exception, *, out: Path, step: int) -> Exception:
    """What to raise for `problem`, met while step `step` was written under `out`: DiskFull for a full disk, else itself."""
    if full_disk(problem) is None:
        return problem
    return DiskFull(
        f"The disk of {out} is full, so step {step} couldn't be saved. "
        "The training state before it is whole: free some space and start the same command again."
    )
