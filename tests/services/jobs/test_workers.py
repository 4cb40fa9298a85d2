"""Workers: what they can do, whether they live, and which job each has in hand."""

from datetime import timedelta

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.models import Job, JobKind
from app.services.jobs import leases, workers
from tests.services.jobs.conftest import LEASE, NOON, Claim, Queue


def register(session: Session, name: str, *kinds: JobKind, age: float = 0) -> None:
    workers.register(
        session,
        name=name,
        device="CPU",
        memory_bytes=None,
        version="0.1.0",
        kinds=kinds,
        versions={"python": "3.11"},
        now=NOON - timedelta(seconds=age),
    )


def test_worker_that_starts_again_describes_itself_anew(session: Session) -> None:
    register(session, "cpu-1", JobKind.TRAINING, age=100)
    register(session, "cpu-1", JobKind.TRAINING, JobKind.EXPORT)
    (one,) = workers.listing(session, silent_after=LEASE, now=NOON)
    assert one.alive and (one.worker.version, one.worker.kinds) == ("0.1.0", ["export", "training"])


def test_only_a_worker_that_was_heard_lately_counts_for_its_kinds(session: Session) -> None:
    register(session, "silent", JobKind.TRAINING, JobKind.EXPORT, age=LEASE + 1)
    register(session, "trains", JobKind.TRAINING, age=LEASE - 1)
    living = workers.alive(session, silent_after=LEASE, now=NOON)
    assert [worker.name for worker in living] == ["trains"]
    assert [worker.name for worker in workers.able(living, JobKind.TRAINING)] == ["trains"]
    assert workers.able(living, JobKind.EXPORT) == []


def test_sign_of_life_of_a_forgotten_worker_says_so(session: Session) -> None:
    register(session, "old", age=8 * 24 * 3600)
    assert workers.heartbeat(session, name="old", now=NOON - timedelta(days=8))
    register(session, "new")
    assert not workers.heartbeat(session, name="old", now=NOON)


def test_job_in_hand_is_the_one_that_runs_under_the_workers_name(engine: Engine, job: Job, claim: Claim) -> None:
    with write_session(engine) as session:
        register(session, "w1", JobKind.TRAINING)
        register(session, "w2", JobKind.TRAINING)
    token = claim("w1").lease_token or ""
    with read_session(engine) as session:
        one, two = workers.listing(session, silent_after=LEASE, now=NOON)
    assert one.job is not None and (one.job.id, one.job.kind, two.job) == (job.id, "training", None)
    with write_session(engine) as session:
        leases.succeed(session, job_id=job.id, token=token)
        assert workers.listing(session, silent_after=LEASE, now=NOON)[0].job is None


def test_worker_that_was_started_again_under_its_name_is_listed_once(
    engine: Engine, queue: Queue, claim: Claim
) -> None:
    with write_session(engine) as session:
        register(session, "w1", JobKind.TRAINING)
    for _ in range(2):
        newest = queue()
        claim("w1")
    with read_session(engine) as session:
        (one,) = workers.listing(session, silent_after=LEASE, now=NOON)
    assert one.job is not None and one.job.id == newest.id
