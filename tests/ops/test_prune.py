"""What isn't needed any more goes after its time, and nothing else does."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, update
from typer.testing import CliRunner

from app.cli import cli
from app.config import Settings
from app.db import read_session, write_session
from app.events import log as events
from app.events.types import Done, Evaluated, Logged, StepTaken
from app.models import (
    ApiToken,
    Container,
    EventType,
    Extract,
    ExtractForm,
    ExtractState,
    JobEvent,
    JobKind,
    JobState,
    Judgment,
    Link,
    Showing,
    User,
    UserSession,
)
from app.models.base import now as clock
from app.ops import prune
from app.ops.up import Child
from app.services.accounts import links, sessions, tokens
from app.services.datasets.extracts import extracts
from app.services.jobs import jobs, leases
from app.storage import Storage
from tests.factory import Factory
from tests.ops.filled import rows_of
from tests.services.training.exported import exported
from tests.services.training.trained import trained
from worker.process.folder import WorkFolder

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=400)


def counts(settings: Settings, **more: object) -> dict[str, int]:
    return {one.what: one.count for one in prune.prune(settings, now=NOW, **more) if one.count}


def age(path: Path, when: datetime) -> None:
    os.utime(path, (when.timestamp(), when.timestamp()))


def test_ended_sessions_links_and_tokens_go_and_living_ones_stay(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    ada = factory.user(username="ada")
    with write_session(engine) as session:
        user = session.get_one(User, ada.id)
        for when in (LONG_AGO, NOW):
            sessions.start(session, user=user, now=when)
            links.create_sign_in(session, user=user, now=when)
            tokens.create(session, user=user, name="short", days=7, now=when)
        tokens.create(session, user=user, name="forever", days=None, now=LONG_AGO)
    before = rows_of(engine)
    expected = {"ended sessions": 1, "ended links": 1, "ended tokens": 1}
    assert counts(settings, dry_run=True) == expected
    assert rows_of(engine) == before
    assert counts(settings) == expected
    assert counts(settings) == {}
    with read_session(engine) as session:
        assert [session.scalar(select(func.count()).select_from(table)) for table in (UserSession, Link, ApiToken)] == [
            1,
            1,
            2,
        ]


def test_a_showing_goes_when_nobody_can_answer_it_any_more(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    project, ada, bob = factory.project(), factory.user(), factory.user()
    factory.comparisons(project, 3)
    assert factory.judge(project, ada)
    assert factory.shown(project, ada) and factory.shown(project, bob)
    with write_session(engine) as session:
        session.execute(update(Showing).values(shown_at=LONG_AGO))
        # Ada's lease ran out and somebody else took the slot: nothing but the showing remembers it.
        holder = session.scalars(select(Showing).where(Showing.user_id == ada.id).order_by(Showing.id.desc())).first()
        token = holder.token
    from app.models import Slot, SlotState

    with engine.begin() as connection:
        free = update(Slot).where(Slot.lease_token == token)
        connection.execute(free.values(state=SlotState.OPEN, holder_id=None, lease_token=None, leased_until=None))
    assert counts(settings) == {"showings that nobody judged": 1}
    with read_session(engine) as session:
        left = session.scalars(select(Showing.token)).all()
        assert token not in left and len(left) == 2
        assert session.scalar(select(Judgment.lease_token)) in left


def test_a_summary_of_an_old_jobs_events_stays(engine: Engine, settings: Settings, factory: Factory) -> None:
    project = factory.project()
    with write_session(engine) as session:
        job, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None, now=LONG_AGO)
        claimed = leases.claim(session, worker="w", kinds=[JobKind.TRAINING], lease_seconds=60, now=LONG_AGO)
        told = [StepTaken(step=step, total_steps=1000) for step in range(1, 1001)]
        more = [Logged(message="hello"), Evaluated(step=500), Done()]
        events.append_all(session, job=job.id, events=[*told, *more], now=LONG_AGO)
        leases.succeed(session, job_id=job.id, token=claimed.lease_token, now=LONG_AGO)
        jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None, now=NOW)
    removed = counts(settings)
    assert removed == {"events of old jobs": 800}
    assert counts(settings) == {}
    with read_session(engine) as session:
        left = session.execute(select(JobEvent.type, JobEvent.step).where(JobEvent.job_id == job.id)).tuples().all()
    kinds = {kind for kind, _ in left}
    assert kinds == {EventType.STATE, EventType.STEP, EventType.EVAL, EventType.DONE}
    steps = [step for kind, step in left if kind is EventType.STEP]
    assert len(steps) == 201 and (steps[0], steps[-1]) == (1, 1000)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_work_folders_of_failed_and_unknown_jobs_go_and_others_stay(
    engine: Engine, settings: Settings, factory: Factory
) -> None:
    project, work = factory.project(), settings.data_dir / "work"
    states = {}
    for state in (JobState.QUEUED, JobState.FAILED, JobState.CANCELLED):
        with write_session(engine) as session:
            job, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None, now=LONG_AGO)
            if state is not JobState.QUEUED:
                jobs.move(session, job.id, JobState.CANCELLED, source=JobState.QUEUED, finished_at=LONG_AGO)
        states[state] = WorkFolder(work, job.id, job.uid)
    with write_session(engine) as session:
        recent, _ = jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None, now=NOW)
        jobs.move(session, recent.id, JobState.CANCELLED, source=JobState.QUEUED, finished_at=NOW)
    kept = WorkFolder(work, recent.id, recent.uid)
    lost = WorkFolder(work, recent.id, "0123456789abcdef")  # of a database that was put back since
    foreign, other = WorkFolder(work, 999, "fedcba"), work / "gpu-0"
    for folder in (*states.values(), kept, lost, foreign):
        folder.create()
        (folder.path / "state").write_bytes(b"x" * 10)
        age(folder.path, LONG_AGO)
    other.mkdir()
    removed = prune.prune(settings, now=NOW)
    assert {one.what: (one.count, one.bytes) for one in removed if one.count} == {
        "work folders of failed jobs": (4, 40)
    }
    assert {path.name for path in work.iterdir()} == {states[JobState.QUEUED].path.name, kept.path.name, "gpu-0"}


def test_stored_files_that_nothing_names_go_when_they_are_old(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    engineer = factory.engineer()
    _, checkpoint = trained(engine, settings, factory.judged(8), engineer)
    exported(engine, settings, checkpoint, engineer)
    artifacts = settings.data_dir / "artifacts"
    named = {path for path in artifacts.rglob("*") if path.is_file()}
    for key in ("checkpoints/job-9/abc/model.safetensors", "snapshots/half", "tmp/0123", "somebody/elses"):
        storage.put_bytes(key, b"half")
    for path in artifacts.rglob("*"):
        if path.is_file():
            age(path, LONG_AGO)
    storage.put_bytes("checkpoints/job-10/on-its-way", b"young")
    age(artifacts / "checkpoints" / "job-10" / "on-its-way", NOW)
    assert counts(settings) == {"stored files that nothing names": 1}, "half a file; whole ones only when asked for"
    assert counts(settings, stored_files=True) == {"stored files that nothing names": 2}
    assert {path for path in artifacts.rglob("*") if path.is_file()} == named | {
        artifacts / "checkpoints" / "job-10" / "on-its-way",
        artifacts / "somebody" / "elses",
    }


def test_files_with_a_projects_data_go_with_their_rows_after_their_time(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, by = factory.judged(2), factory.engineer()

    def made(when: datetime, state: ExtractState = ExtractState.DONE) -> Extract:
        with write_session(engine) as session:
            row = extracts.create(
                session,
                project=session.merge(project),
                by=session.merge(by),
                form=ExtractForm.OWN,
                container=Container.JSONL,
            )
        row = extracts.make(engine, storage, row.id)
        with write_session(engine) as session:
            session.execute(update(Extract).where(Extract.id == row.id).values(updated_at=when, state=state))
        return row

    old, young = made(LONG_AGO), made(NOW - timedelta(days=settings.keep_extracts_days - 1))
    lost, current = made(LONG_AGO, ExtractState.RUNNING), made(clock(), ExtractState.RUNNING)
    expected = {"extracts": (2, sum(row.files[0].size for row in (old, lost)))}
    for dry_run in (True, False):
        told = prune.prune(settings, now=NOW, dry_run=dry_run)
        assert {one.what: (one.count, one.bytes) for one in told if one.count} == expected
    assert counts(settings) == {}
    with read_session(engine) as session:
        assert set(session.scalars(select(Extract.id))) == {young.id, current.id}
    for row, is_there in ((old, False), (lost, False), (young, True), (current, True)):
        assert storage.exists(row.files[0].key) is is_there


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_caches_go_when_nobody_used_them(engine: Engine, settings: Settings) -> None:
    cache = settings.data_dir / "cache" / "reference"
    cache.mkdir(parents=True)
    for name, when in (("old", LONG_AGO), ("new", NOW)):
        (cache / name).write_bytes(b"x")
        age(cache / name, when)
    (cache / "link").symlink_to(settings.data_dir / "prefloop.db")
    assert counts(settings) == {"caches": 1}
    assert (settings.data_dir / "prefloop.db").exists() and (cache / "new").exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_it_is_due_once_a_day_and_on_the_command_line(engine: Engine, settings: Settings, factory: Factory) -> None:
    assert prune.is_due(settings)
    done = CliRunner().invoke(cli, ["prune", "--dry-run"])
    assert done.exit_code == 0 and "nothing to remove" in done.output
    assert prune.is_due(settings)
    assert CliRunner().invoke(cli, ["prune"]).exit_code == 0
    assert not prune.is_due(settings)
    age(settings.data_dir / prune.DONE_FILE, datetime.now(UTC) - timedelta(hours=25))
    assert prune.is_due(settings)
    shown = CliRunner().invoke(cli, ["storage"])
    assert shown.exit_code == 0 and "Database" in shown.output and "are free of" in shown.output


def test_a_log_that_has_grown_is_put_aside_and_goes_on(tmp_path: Path) -> None:
    child = Child("web server", [], tmp_path / "web.log")
    with child.log.open("ab") as log:  # as the process holds it
        for number in range(5):
            log.write(b"%d" % number * 100)
            log.flush()
            child.rotate_log(longest=100, files=3)
        log.write(b"now")
    assert child.log.read_bytes() == b"now"
    kept = [tmp_path / f"web.log.{number}" for number in (1, 2, 3)]
    assert [path.read_bytes()[:1] for path in kept] == [b"4", b"3", b"2"]
    assert len(list(tmp_path.iterdir())) == 4
    child.rotate_log(longest=100, files=3)
    assert child.log.read_bytes() == b"now"
