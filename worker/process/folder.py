"""A job's folder on the worker's machine: inputs, the engine's output, its result and its training state.

It is kept until the job succeeds, so that a run that was cut off goes on where it was.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from app.errors import PrefloopError
from app.models import Job
from app.storage import CHUNK, Storage

STATE = re.compile(r"step-(\d+)")
TAIL_BYTES = 16_384


class InputsBroken(PrefloopError):
    """What the run would be trained on is not what was frozen."""

    status = 409
    code = "snapshot_damaged"


class WorkFolder:
    """`root/job-N`. The engine's output goes through all its attempts in one file each for stdout and stderr."""

    def __init__(self, root: Path, job_id: int) -> None:
        self.path = root / f"job-{job_id}"
        self.out = self.path / "out"
        self.output = self.path / "output.jsonl"
        self.errors = self.path / "errors.log"
        self.config = self.path / "config.json"
        self._lock = self.path / "lock"

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def prepare(self, job: Job, storage: Storage, config: dict[str, Any]) -> dict[str, Path]:
        """Fetch the snapshot's files and check their hashes; write the configuration. Returns the files with pairs.

        Raises InputsBroken, and NotFound or Unavailable from the store.
        """
        found = {}
        for file in job.snapshot.files:
            if not file["pairs"]:
                continue
            found[file["name"]] = self.path / file["name"]
            if _fetch(storage, file["key"], found[file["name"]]) != file["sha256"]:
                raise InputsBroken(
                    f"{file['name']} of snapshot {job.snapshot.number} is not what was frozen: its SHA-256 differs.",
                    "Look at the artifact store, or freeze a new snapshot.",
                )
        self.config.write_text(json.dumps(config, indent=1))
        return found

    def lock(self, *, grace_seconds: float) -> int:
        """Hold the folder for a new training process, and return the file descriptor that it inherits.

        Whoever held it before is a process that outlived its worker: it is asked to end, then made to.
        """
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        for number in (None, signal.SIGTERM, signal.SIGKILL):
            if number is not None:
                self._signal_holder(number)
            deadline = time.monotonic() + (0 if number is None else grace_seconds)
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return handle
                except OSError:
                    if time.monotonic() >= deadline:
                        break
                    time.sleep(0.1)
        os.close(handle)
        raise OSError(f"{self.path} is still in use by a process that does not end")

    def name_holder(self, pid: int) -> None:
        """Write down the process group that holds the folder."""
        self._lock.write_text(str(pid))

    def _signal_holder(self, number: int) -> None:
        # The lock is held, so the group in the file is alive: its number can't have been given to another.
        with suppress(OSError, ValueError):
            os.killpg(int(self._lock.read_text()), number)

    def end_torn_line(self) -> None:
        """A killed engine may have printed half a line; the next one starts on a fresh one."""
        if self.output.exists() and self.output.stat().st_size:
            with self.output.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def kept(self) -> str:
        """What a broken-off run can go on from, in words; empty if there is nothing."""
        steps = [int(match[1]) for path in self._states() if (match := STATE.fullmatch(path.name))]
        return f"The training state of step {max(steps)} is kept; Retry goes on from it." if steps else ""

    def _states(self) -> list[Path]:
        folder = self.out / "state"
        return list(folder.iterdir()) if folder.is_dir() else []

    def last_lines(self, count: int, *, start: int) -> list[str]:
        """The last lines on stderr, of this attempt only (from byte `start` on)."""
        try:
            with self.errors.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(start, size - TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        return [line[:500] for line in text.replace("\x00", "").splitlines() if line.strip()][-count:]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _fetch(storage: Storage, key: str, target: Path) -> str:
    """Copy a stored file; returns its SHA-256."""

    digest = hashlib.sha256()
    with storage.open(key) as source, target.open("wb") as file:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()
