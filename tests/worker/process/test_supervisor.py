"""The supervisor does a job of any kind: what it opens for each call, and what is left when one fails."""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.events import log as events
from app.events.types import Event, Logged, StepTaken
from app.models import EventType, Job, JobEvent, JobKind, JobState
from app.models.job import new_uid
from app.services.jobs import jobs, leases
from app.storage import Storage
from tests.factory import Factory
from tests.worker.running import folder_of
from worker.kinds.kind import Need, Result
from worker.process.folder import WorkFolder
from worker.process.supervisor import Supervisor
from worker.pulse import Pulse

PROGRAM = """
import json, pathlib, sys
print(json.dumps({"event": "state", "stage": "adding", "total_steps": 2}), flush=True)
for step in (1, 2):
    print(json.dumps({"event": "step", "step": step}), flush=True)
pathlib.Path("sum.txt" if len(sys.argv) < 2 else sys.argv[1]).write_text(str(1 + 2))
"""


class Adding:
    """A kind of the test's: its program adds two numbers and leaves the sum in a file."""

    kind: ClassVar[JobKind] = JobKind.EXPORT
    program: ClassVar[str] = "adding machine"

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.calls, self.steps = job, [], []
        self.fails_at = ""

    @staticmethod
    def need(settings: Settings) -> Need:
        return Need.NOTHING

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails_at:
            raise Invalid(f"It can't be done at {name}.")

    def inputs(self, session: Session) -> None:
        self._called("inputs")

    def command(self, folder: Path, storage: Storage) -> list[str]:
        self._called("command")
        return [sys.executable, "-c", PROGRAM, str(folder / "sum.txt")]

    def variables(self) -> Sequence[str]:
        return ("ADDING_*",)

    def secrets(self) -> Mapping[str, str]:
        return {}

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        self.steps += [event.step for event in printed if isinstance(event, StepTaken) and event.step is not None]

    def kept(self, folder: Path) -> str:
        return ""

    def is_published(self, session: Session) -> bool:
        return session.scalar(select(JobEvent.id).where(JobEvent.type == EventType.LOG)) is not None

    def store_result(self, folder: Path, storage: Storage) -> Result:
        self._called("store_result")
        stored = storage.put_file("sums/1", folder / "sum.txt")

        def end(session: Session) -> None:
            self._called("end")
            events.append(session, job=self.job.id, event=Logged(message=f"SHA-256 {stored.sha256}"))

        return Result(end, self.is_published, [stored.key])


@pytest.fixture
def claimed(engine: Engine, factory: Factory) -> Job:
    project = factory.project()
    with write_session(engine) as session:
        jobs.queue(session, kind=JobKind.EXPORT, project_id=project.id, by=None)
        job = leases.claim(session, worker="w", kinds=[JobKind.EXPORT], lease_seconds=600)
    assert job is not None
    return job


@pytest.fixture
def supervise(engine: Engine, settings: Settings, storage: Storage, claimed: Job) -> Callable[[Adding], Job]:
    """Does the job to its end and returns how it ended."""

    def supervise(kind: Adding) -> Job:
        pulse = Pulse(settings, engine, "w", [])
        pulse.hold(claimed.id, str(claimed.lease_token))
        Supervisor(claimed, kind, settings, engine, storage, pulse, threading.Event(), {}).run()
        with read_session(engine) as session:
            return jobs.get(session, claimed.id)

    return supervise


def test_any_kind_of_job_is_done_step_by_step(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job, supervise: Callable[[Adding], Job]
) -> None:
    kind = Adding(claimed, settings)
    job = supervise(kind)
    assert (job.state, job.step, job.total_steps, job.error) == (JobState.SUCCEEDED, 2, 2, "")
    assert kind.calls == ["inputs", "command", "store_result", "end"]
    assert kind.steps == [1, 2]
    assert storage.read_bytes("sums/1") == b"3"
    with read_session(engine) as session:
        told = [
            (row.type, row.data.get("stage") or row.data.get("state")) for row in events.after(session, job_id=job.id)
        ]
    assert [one for one in told if one[0] == "state"] == [
        ("state", "queued"),
        ("state", "running"),
        ("state", "adding"),
        ("state", "publishing"),
        ("state", "succeeded"),
    ]
    assert not folder_of(settings, job.id).exists()


@pytest.mark.parametrize("name", ["inputs", "command", "store_result", "end"])
def test_what_a_kind_raises_fails_the_job_and_leaves_no_file_that_nobody_names(
    settings: Settings, storage: Storage, claimed: Job, supervise: Callable[[Adding], Job], name: str
) -> None:
    kind = Adding(claimed, settings)
    kind.fails_at = name
    job = supervise(kind)
    assert (job.state, job.error_code, job.error) == (JobState.FAILED, "invalid", f"It can't be done at {name}.")
    assert kind.calls[-1] == name
    assert not storage.exists("sums/1")
    assert folder_of(settings, job.id).exists(), "the next attempt finds its folder"


def test_program_that_crashes_is_called_by_its_name(
    settings: Settings, claimed: Job, supervise: Callable[[Adding], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PROGRAM", "raise SystemExit(7)")
    job = supervise(Adding(claimed, settings))
    assert (job.state, job.error_code) == (JobState.FAILED, "crashed")
    assert job.error == "The adding machine ended with exit code 7 and gave no reason."


class AwayForAMoment(Pulse):
    """Its database was away for longer than the lease, and is back before the program has ended."""

    looks = 0

    @property
    def has_lease(self) -> bool:
        self.looks += 1
        return self.looks > 1


class Endless(Adding):
    """A kind whose program goes on until it is told to end."""

    def command(self, folder: Path, storage: Storage) -> list[str]:
        return [sys.executable, "-c", "import signal; signal.pause()"]


def test_a_job_that_was_stopped_while_the_database_was_away_is_queued_again(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job
) -> None:
    pulse = AwayForAMoment(settings, engine, "w", [])
    pulse.hold(claimed.id, str(claimed.lease_token))
    Supervisor(claimed, Endless(claimed, settings), settings, engine, storage, pulse, threading.Event(), {}).run()
    with read_session(engine) as session:
        job = jobs.get(session, claimed.id)
        assert (job.state, job.error, job.attempts) == (JobState.QUEUED, "", 0)


class AnswerLost(Supervisor):
    """Its last commit comes about, and its answer doesn't arrive."""

    def _end_well(self, session: Session, result: Result) -> None:
        super()._end_well(session, result)
        if not self.lost:
            self.lost = True
            session.commit()
            raise OperationalError("COMMIT", None, Exception("server closed the connection unexpectedly"))

    lost = False


def test_a_result_whose_commit_lost_its_answer_is_never_deleted(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job
) -> None:
    pulse = Pulse(settings, engine, "w", [])
    pulse.hold(claimed.id, str(claimed.lease_token))
    AnswerLost(claimed, Adding(claimed, settings), settings, engine, storage, pulse, threading.Event(), {}).run()
    with read_session(engine) as session:
        assert jobs.get(session, claimed.id).state is JobState.SUCCEEDED
    assert storage.read_bytes("sums/1") == b"3"
    assert not folder_of(settings, claimed.id).exists()


def test_where_nobody_can_look_the_files_stay(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job
) -> None:
    class Unsure(Adding):
        def is_published(self, session: Session) -> bool:
            raise OperationalError("SELECT", None, Exception("no connection"))

    pulse = Pulse(settings, engine, "w", [])
    pulse.hold(claimed.id, str(claimed.lease_token))
    AnswerLost(claimed, Unsure(claimed, settings), settings, engine, storage, pulse, threading.Event(), {}).run()
    assert storage.read_bytes("sums/1") == b"3"


def test_a_new_job_with_the_number_of_a_lost_one_starts_in_a_folder_of_its_own(
    engine: Engine, settings: Settings, storage: Storage, claimed: Job, supervise: Callable[[Adding], Job]
) -> None:
    """A database that was put back gives the same number again; the lost run's folder is still there."""
    lost = WorkFolder(settings.data_dir / "work", claimed.id, new_uid())
    lost.create()
    (lost.path / "sum.txt").write_text("of the lost run")
    assert supervise(Adding(claimed, settings)).state is JobState.SUCCEEDED
    assert (lost.path / "sum.txt").read_text() == "of the lost run"
    assert storage.read_bytes("sums/1") == b"3"
    assert WorkFolder(settings.data_dir / "work", 7).path.name == "job-7"
