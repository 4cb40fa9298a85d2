"""Jobs of every kind: made once, and changed only along the states' table."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import read_session, write_session
from app.errors import Conflict, NotFound
from app.events import log as events
from app.models import AuditEntry, Job, JobKind, JobState, Project, User
from app.services.jobs import jobs, leases
from app.services.jobs.leases import LeaseLost
from tests.services.jobs.conftest import LEASE, NOON, Claim, Queue, states

Act = Callable[[Session, Job, str], object]
ACTS: dict[str, Act] = {
    "claim": lambda session, job, token: leases.claim(
        session, worker="w2", kinds=list(JobKind), lease_seconds=LEASE, now=NOON
    ),
    "succeed": lambda session, job, token: leases.succeed(session, job_id=job.id, token=token),
    "fail": lambda session, job, token: leases.fail(session, job_id=job.id, token=token, code="x", error="x"),
    "end cancelled": lambda session, job, token: leases.end_cancelled(session, job_id=job.id, token=token),
    "give back": lambda session, job, token: leases.give_back(session, job_id=job.id, token=token, reason="x"),
    "sweep": lambda session, job, token: leases.sweep(session, attempts=3, now=NOON + timedelta(seconds=LEASE + 1)),
    "cancel": lambda session, job, token: jobs.cancel(session, job=job, by=None),
    "retry": lambda session, job, token: jobs.retry(session, job=job, by=None),
}
# What each act makes of a job in each state; what isn't here changes nothing.
BECOMES = {
    ("queued", "claim"): "running",
    ("queued", "cancel"): "cancelled",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "end cancelled"): "cancelled",
    ("running", "give back"): "queued",
    ("running", "sweep"): "queued",
    ("failed", "retry"): "queued",
    ("cancelled", "retry"): "queued",
}
WAYS = {"queued": [], "running": ["claim"], "succeeded": ["claim", "succeed"], "failed": ["claim", "fail"],
        "cancelled": ["claim", "end cancelled"]}  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("state", WAYS)
def test_each_act_leads_from_each_state_where_it_should_and_nowhere_else(
    engine: Engine, job: Job, claim: Claim, state: str, act: str
) -> None:
    token = "never given"
    for way in WAYS[state]:
        if way == "claim":
            token = claim().lease_token or ""
            continue
        with write_session(engine) as session:
            ACTS[way](session, job, token)
    told = states(engine, job.id)
    assert told[-1] == state
    refused = False
    try:
        with write_session(engine) as session:
            ACTS[act](session, jobs.get(session, job.id), token)
    except (LeaseLost, Conflict):
        refused = True
    expected = BECOMES.get((state, act), state)
    with read_session(engine) as session:
        assert jobs.get(session, job.id).state == expected
    assert states(engine, job.id) == told + [expected] * ((state, act) in BECOMES)
    assert not (refused and (state, act) in BECOMES)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'running'",
        "state = 'failed'",
        "state = 'paused'",
        "lease_token = 'mine'",
        "finished_at = created_at",
        "kind = 'baking'",
    ],
)
def test_the_database_refuses_a_queued_job_that_contradicts_itself(engine: Engine, job: Job, change: str) -> None:
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {change} WHERE id = {job.id}"))


@pytest.mark.parametrize("change", ["state = 'queued'", "lease_until = NULL", "state = 'succeeded'"])
def test_the_database_refuses_a_running_job_that_contradicts_itself(
    engine: Engine, job: Job, claim: Claim, change: str
) -> None:
    claim()
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(f"UPDATE jobs SET {change} WHERE id = {job.id}"))


def test_new_job_is_queued_and_in_the_audit_trail(session: Session, project: Project, engineer: User) -> None:
    job, is_new = jobs.queue(
        session, kind=JobKind.EXPORT, project_id=project.id, by=session.merge(engineer), checkpoint=7
    )
    assert is_new and (job.state, job.kind, job.phase) == (JobState.QUEUED, JobKind.EXPORT, "")
    (entry,) = session.scalars(select(AuditEntry).where(AuditEntry.target == f"job {job.id}"))
    assert (entry.action, entry.detail) == ("job.create", {"checkpoint": 7})


def test_same_key_makes_one_job_and_stands_for_one_kind(session: Session, project: Project, engineer: User) -> None:
    by = session.merge(engineer)
    one, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=by, idempotency_key="k")
    again, is_new = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=by, idempotency_key="k")
    assert (again.id, is_new) == (one.id, False)
    with pytest.raises(Conflict, match="another request"):
        jobs.queue(session, kind=JobKind.EXPORT, project_id=project.id, by=by, idempotency_key="k")


def test_racing_clicks_with_one_key_make_one_job(engine: Engine, project: Project, engineer: User) -> None:
    def click(_: int) -> tuple[int, bool]:
        with write_session(engine) as session:
            job, is_new = jobs.queue(
                session,
                kind=JobKind.TRAINING,
                project_id=project.id,
                by=session.merge(engineer),
                idempotency_key="form-1",
            )
            return job.id, is_new

    with ThreadPoolExecutor(4) as clicks:
        made = list(clicks.map(click, range(8)))
    assert len({job_id for job_id, _ in made}) == 1
    assert [is_new for _, is_new in made].count(True) == 1


def test_keys_of_two_people_do_not_meet(session: Session, project: Project, engineer: User) -> None:
    other_user = User(username="other", display_name="Other", role=engineer.role)
    session.add(other_user)
    session.flush()
    made = [
        jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=by, idempotency_key="k")[0].id
        for by in (session.merge(engineer), other_user)
    ]
    assert made[0] != made[1]


def test_queued_job_is_cancelled_at_once_and_cancelling_again_changes_nothing(
    engine: Engine, job: Job, engineer: User
) -> None:
    for _ in range(2):
        with write_session(engine) as session:
            cancelled = jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
            assert cancelled.state is JobState.CANCELLED
    assert states(engine, job.id) == ["queued", "cancelled"]


def test_running_job_is_asked_to_stop_once(engine: Engine, job: Job, engineer: User, claim: Claim) -> None:
    token = claim().lease_token or ""
    for _ in range(2):
        with write_session(engine) as session:
            asked = jobs.cancel(session, job=jobs.get(session, job.id), by=session.merge(engineer))
            assert asked.state is JobState.RUNNING
    with write_session(engine) as session:
        assert leases.check(session, job_id=job.id, token=token)
        assert leases.heartbeat(session, job_id=job.id, token=token, lease_seconds=LEASE)
        leases.end_cancelled(session, job_id=job.id, token=token, kept="The training state of step 5 is kept; …")
    with read_session(engine) as session:
        logged = [row for row in events.after(session, job_id=job.id) if row.type == "log"]
        assert [row.data["message"] for row in logged] == [
            f"{engineer.display_name} cancelled the run; its worker is told to stop."
        ]
        assert events.last(session, job_id=job.id).data["kept"].startswith("The training state")


def test_retry_starts_with_a_clean_slate(engine: Engine, job: Job, engineer: User, claim: Claim) -> None:
    token = claim().lease_token or ""
    with write_session(engine) as session:
        leases.fail(session, job_id=job.id, token=token, code="killed", error="It was killed.", lines=["a", "b"])
    with write_session(engine) as session:
        again = jobs.retry(session, job=jobs.get(session, job.id), by=session.merge(engineer))
        assert (again.state, again.error, again.attempts, again.finished_at) == (JobState.QUEUED, "", 0, None)
        assert (again.worker, again.phase, again.cancel_requested_at) == ("", "", None)


def test_jobs_are_listed_by_kind_state_and_project(session: Session, project: Project, queue: Queue) -> None:
    run, export = queue(), queue(JobKind.EXPORT)
    assert [job.id for job in jobs.listing(session, project=project).items] == [export.id, run.id]
    assert [job.id for job in jobs.listing(session, kind=JobKind.EXPORT).items] == [export.id]
    assert jobs.listing(session, kind=JobKind.EXPORT, state=JobState.RUNNING).total == 0


@pytest.mark.parametrize("job_id", [0, 999, 2**40])
def test_unknown_job_is_not_found(session: Session, job_id: int) -> None:
    with pytest.raises(NotFound):
        jobs.get(session, job_id)
