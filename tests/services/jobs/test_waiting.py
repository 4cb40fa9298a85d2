"""What a queued job waits for, in numbers and in words."""

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.models import Job, JobKind
from app.services.jobs import waiting
from tests.services.jobs.conftest import LEASE, NOON, Claim, Queue
from tests.services.jobs.test_workers import register


def words(session: Session, *jobs: Job) -> list[str]:
    told = waiting.of(session, jobs=jobs, silent_after=LEASE, now=NOON)
    return [told[job.id].text for job in jobs]


def test_job_waits_for_the_ones_before_it(engine: Engine, queue: Queue, claim: Claim) -> None:
    queue()
    claim()  # runs, so it stands in nobody's way
    jobs = [queue(), queue(JobKind.EXPORT), queue()]
    with write_session(engine) as session:
        register(session, "w1", *JobKind)
        assert words(session, *jobs) == ["next in the queue", "1 job before it", "2 jobs before it"]


def test_job_of_a_kind_that_no_living_worker_can_do_says_so(engine: Engine, queue: Queue) -> None:
    run, export = queue(), queue(JobKind.EXPORT)
    with write_session(engine) as session:
        assert words(session, export) == ["no worker is running"]
        assert waiting.unable(session, silent_after=LEASE, now=NOON) == [JobKind.EXPORT, JobKind.TRAINING]
        register(session, "w1", JobKind.TRAINING)
        assert words(session, run, export) == [
            "next in the queue",
            "no running worker can do exports: start one of this version of Prefloop",
        ]
        assert waiting.unable(session, silent_after=LEASE, now=NOON) == [JobKind.EXPORT]
        register(session, "w2", JobKind.EXPORT)
        assert words(session, export) == ["1 job before it"]
        assert waiting.unable(session, silent_after=LEASE, now=NOON) == []


def test_only_queued_jobs_wait(engine: Engine, job: Job, claim: Claim) -> None:
    with read_session(engine) as session:
        assert waiting.count(session, kinds=[JobKind.TRAINING]) == 1
        assert waiting.count(session, kinds=[JobKind.EXPORT]) == 0
    running = claim()
    with read_session(engine) as session:
        assert waiting.of(session, jobs=[running], silent_after=LEASE, now=NOON) == {}
        assert waiting.count(session, kinds=list(JobKind)) == 0
