"""A job's folder on the worker's machine: its inputs, what its program printed, its result and what it goes on from.

It is kept until the job succeeds, so that a job that was cut off goes on where it was. What a kind of job keeps in it
is the kind's own affair.
"""

import fcntl
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

TAIL_BYTES = 16_384


class WorkFolder:
    """`root/job-N-UID`. All attempts of a job print to the same two files, one for stdout and one for stderr.

    `uid` is the job's own for good: in a database that was put back from a backup, a new job with the number of a lost one
    doesn't find the lost one's folder. Jobs of before there were any have none.
    """

    def __init__(self, root: Path, job_id: int, uid: str = "") -> None:
        self.path = root / (f"job-{job_id}-{uid[:12]}" if uid else f"job-{job_id}")
        self.output = self.path / "output.jsonl"
        self.errors = self.path / "errors.log"
        self._lock = self.path / "lock"

    def create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)

    def lock(self, *, grace_seconds: float) -> int:
        """Hold the folder for a new process, and return the file descriptor that it inherits.

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
        """A killed process may have printed half a line; the next one starts on a fresh one."""
        if self.output.exists() and self.output.stat().st_size:
            with self.output.open("rb+") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

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
