"""Runs one job's process: its events into the database, cancellation into it, and a reason for however it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import structlog
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import PrefloopError, disk_full
from app.events.types import Event, Failed, PhaseReached
from app.models import EventType, Job, JobEvent
from app.paths import ROOT
from app.services.jobs import leases
from app.services.jobs.leases import LeaseLost
from app.storage import Storage
from worker.kinds.kind import Kind, Result
from worker.process import ends, environment, output
from worker.process.folder import WorkFolder
from worker.pulse import Pulse

log = structlog.get_logger()
Written = TypeVar("Written")

LOOK_SECONDS = 0.25
CANCEL_LOOK_SECONDS = 1.0
LAST_LINES = 30


class Supervisor:
    """Sees one claimed job through. Every write carries the lease's token, so a job that was taken is never touched."""

    def __init__(
        self,
        job: Job,
        kind: Kind,
        settings: Settings,
        engine: Engine,
        storage: Storage,
        pulse: Pulse,
        stopping: threading.Event,
        devices: dict[str, str],
    ) -> None:
        assert job.lease_token is not None
        self.job, self.kind, self.token = job, kind, job.lease_token
        self._settings, self._engine, self._storage = settings, engine, storage
        self._pulse, self._stopping, self._environment = pulse, stopping, devices
        self._folder = WorkFolder(settings.data_dir / "work", job.id, job.uid)
        self._lock: int | None = None
        self._offset = job.output_bytes
        self._seen: dict[EventType, int] = {}
        self._error: Failed | None = None
        self._errors_start = 0
        self._cancelled = False
        self._gives_back = False  # it stays so when the database is back before the program has ended
        self._away = "Its worker couldn't reach the database."  # why it was so
        self._next_look = 0.0

    def run(self) -> None:
        """From claim to end. Returns whatever happens; the job's row says what did."""
        child: subprocess.Popen[bytes] | None = None
        try:
            self._folder.create()
            self._catch_up()
            ooms_before = ends.out_of_memory_kills()
            child = self._start(self._command())
            self._watch(child)
            self._end(child.returncode, killed_for_memory=ends.out_of_memory_kills() > ooms_before)
        except LeaseLost:
            log.warning("job.taken_away", job=self.job.id)
        except PrefloopError as error:
            self._fail(error.code, str(error))
        except OSError as error:
            full = disk_full(error) is not None
            self._fail("disk_full" if full else "worker_error", f"The worker could not go on: {error}")
        except Exception as error:
            log.exception("job.supervision_failed", job=self.job.id)
            self._fail("worker_error", f"The worker could not go on: {type(error).__name__}: {error}")
        finally:
            self._unlock()
            if child is not None:
                _kill_group(child)

    # Starting

    def _catch_up(self) -> None:
        """Keep what an earlier attempt printed and nobody stored; remember which steps the page has already."""
        self._lock = self._folder.lock(grace_seconds=self._settings.cancel_grace_seconds)
        self._folder.end_torn_line()
        self._offset = min(self._offset, _size(self._folder.output))
        while self._store_output(fresh=False):
            pass
        self._error = None  # that was how the earlier attempt ended
        newest = (
            select(JobEvent.type, func.max(JobEvent.step)).where(JobEvent.job_id == self.job.id).group_by(JobEvent.type)
        )
        with read_session(self._engine) as session:
            self._seen = {kind: step for kind, step in session.execute(newest).tuples() if step is not None}

    def _command(self) -> list[str]:
        with read_session(self._engine) as session:
            self.kind.inputs(session)
        return self.kind.command(self._folder.path, self._storage)

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """The program in a process group of its own, its output going to files."""
        assert self._lock is not None
        self._errors_start = _size(self._folder.errors)
        with self._folder.output.open("ab") as printed, self._folder.errors.open("ab") as errors:
            child = subprocess.Popen(
                [sys.executable, "-m", "worker.process.leash", str(os.getpid()), *command],
                cwd=ROOT, env=self._child_environment(), stdin=subprocess.DEVNULL, stdout=printed, stderr=errors,
                start_new_session=True, pass_fds=(self._lock,),
            )  # fmt: skip
        self._folder.name_holder(child.pid)
        self._unlock()  # from here on the child and its children hold the folder
        log.info("job.started", job=self.job.id, pid=child.pid)
        return child

    def _child_environment(self) -> dict[str, str]:
        further = [*self._settings.train_environment.replace(",", " ").split(), *self.kind.variables()]
        return environment.of_program(os.environ, further, devices=self._environment) | dict(self.kind.secrets())

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # Watching

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Until the process has ended: store what it prints, ask it to end when somebody wants that. Raises LeaseLost."""
        kill_at = None
        while child.poll() is None:
            self._store_output()
            self._look_for_cancel()
            if self._pulse.lost.is_set():
                raise LeaseLost(f"Job {self.job.id} was taken from this worker.")
            if kill_at is None and (self._cancelled or self._must_give_back):
                self._gives_back = not self._cancelled
                # The first process alone: a launcher passes it on, and a second signal would end the program at once.
                child.terminate()
                kill_at = time.monotonic() + self._settings.cancel_grace_seconds
            if kill_at is not None and time.monotonic() > kill_at:
                _kill_group(child)
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_SECONDS)
        while self._store_output():
            pass

    @property
    def _must_give_back(self) -> bool:
        """The worker is shutting down, or could not reach the database for so long that the job may be another's."""
        return self._stopping.is_set() or not self._pulse.has_lease

    def _look_for_cancel(self) -> None:
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + CANCEL_LOOK_SECONDS
        try:
            with read_session(self._engine) as session:
                self._cancelled = leases.check(session, job_id=self.job.id, token=self.token)
        except OperationalError as error:  # the pulse knows for how long we may go on without a database
            self._note_away(error)

    def _store_output(self, *, fresh: bool = True) -> bool:
        """Store the next events; False when there is nothing new, or no database to store it in for now."""
        printed, end = output.read(self._folder.output, self._offset)
        if end <= self._offset:
            return False
        kept = [event for event in printed if not fresh or self._is_new(event)]
        kept = [event for event in kept if not self._is_error(event)]
        try:
            with write_session(self._engine) as session:
                leases.progress(session, job_id=self.job.id, token=self.token, printed=kept, output_bytes=end)
                self.kind.record(session, kept)
        except OperationalError as error:
            self._note_away(error)
            return False
        self._offset = end
        return True

    def _note_away(self, error: OperationalError) -> None:
        log.warning("job.database_away", job=self.job.id, error=str(error))
        full = disk_full(error)
        self._away = full.what if full else "Its worker couldn't reach the database."

    def _is_new(self, event: Event) -> bool:
        """A resumed run takes some steps again: the page has them."""
        told_once = isinstance(event, output.ONCE_A_STEP)
        return not told_once or event.step is None or event.step > self._seen.get(event.type, -1)

    def _is_error(self, event: Event) -> bool:
        """The program's own word on its end is told when the job ends, beside what is kept."""
        if isinstance(event, Failed):
            self._error = event
        return isinstance(event, Failed)

    # Ending

    def _end(self, code: int, *, killed_for_memory: bool) -> None:
        kept = self.kind.kept(self._folder.path)
        if code == 0:
            self._succeed()
        elif self._cancelled:
            self._write(lambda session: leases.end_cancelled(session, job_id=self.job.id, token=self.token, kept=kept))
        elif (
            self._gives_back
            or self._must_give_back
            or (code in (ends.TERMINATED, -signal.SIGTERM) and self._stopping.wait(2))
        ):
            why = "Its worker is shutting down." if self._stopping.is_set() else self._away
            reason = f"{why} " + (kept.partition(";")[0] + "." if kept else "It starts anew.")
            self._write(lambda session: leases.give_back(session, job_id=self.job.id, token=self.token, reason=reason))
        else:
            self._fail(*ends.explain(code, self._error, killed_for_memory, self.kind.program))

    def _succeed(self) -> None:
        """Store the result, then its rows and the job's end in one short transaction."""
        phase = [PhaseReached(stage="publishing")]
        self._write(
            lambda session: leases.progress(
                session, job_id=self.job.id, token=self.token, printed=phase, output_bytes=self._offset
            )
        )
        result = self.kind.store_result(self._folder.path, self._storage)
        try:
            self._write(lambda session: self._end_well(session, result))
        except BaseException:
            if not self._is_published(result):
                for key in result.keys:
                    self._storage.delete(key)
                raise
        log.info("job.succeeded", job=self.job.id, files=len(result.keys))
        self._folder.remove()

    def _is_published(self, result: Result) -> bool:
        """Whether the rows are there after all: the answer to a commit can be lost. In doubt the files stay."""
        try:
            with read_session(self._engine) as session:
                return result.is_published(session)
        except OperationalError as error:
            self._note_away(error)
            raise LeaseLost(f"Job {self.job.id}: nobody can tell whether its result was stored.") from error

    def _end_well(self, session: Session, result: Result) -> None:
        leases.hold(session, job_id=self.job.id, token=self.token)
        result.end(session)
        leases.succeed(session, job_id=self.job.id, token=self.token)

    def _fail(self, code: str, error: str) -> None:
        kept = self.kind.kept(self._folder.path)
        lines = self._folder.last_lines(LAST_LINES, start=self._errors_start)
        log.warning("job.failed", job=self.job.id, code=code, error=error)
        with suppress(LeaseLost):
            self._write(
                lambda session: leases.fail(
                    session,
                    job_id=self.job.id,
                    token=self.token,
                    code=code,
                    error=error,
                    kept=kept,
                    lines=lines,
                )
            )

    def _write(self, do: Callable[[Session], Written]) -> Written:
        """One transaction, tried again while the database is away and the lease holds."""
        while True:
            try:
                with write_session(self._engine) as session:
                    return do(session)
            except OperationalError as error:
                self._note_away(error)
                if not self._pulse.has_lease:
                    raise LeaseLost(f"Job {self.job.id}: the database was away for too long.") from error
                time.sleep(1)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started, at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
