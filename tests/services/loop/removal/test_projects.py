"""A project is deleted with everything of it, in steps that a killed process's successor goes on with."""

import pytest
from sqlalchemy import Engine, func, select

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Conflict, Invalid, NotFound
from app.models import (
    AuditEntry,
    Base,
    Container,
    Evaluation,
    ExtractForm,
    Job,
    JobState,
    LeftoverFile,
    Project,
    User,
)
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.services.collecting import projects as collecting
from app.services.datasets.extracts import extracts
from app.services.loop.removal import projects
from app.storage import Storage
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude, wrong_counts
from tests.services.loop.removal.test_imports import brought, waiting
from tests.services.training.trained import trained, trained_from


def filled(engine: Engine, settings: Settings, factory: Factory, storage: Storage, slug: str) -> tuple[Project, User]:
    """A project with something of almost everything in it."""
    maker = factory.engineer()
    project = factory.project(by=maker, slug=slug)
    factory.comparisons(project, 5)
    for _ in range(4):
        assert factory.judge(project, maker)
    factory.undo(project, maker)
    assert factory.shown(project, factory.user())
    brought(engine, settings, project, maker, waiting(3, slug))
    trained(engine, settings, project, maker)
    exclude(engine, project, "pair", 1 if slug == "first" else 9, maker)
    with write_session(engine) as session:
        row = extracts.create(
            session,
            project=session.merge(project),
            by=session.merge(maker),
            form=ExtractForm.OWN,
            container=Container.JSONL,
        )
    extracts.make(engine, storage, row.id)
    return project, maker


def begin(engine: Engine, project: Project, by: User, name: str | None = None) -> None:
    with write_session(engine) as session:
        row = session.get_one(Project, project.id)
        projects.begin(session, project=row, name=name or row.name, by=session.merge(by), in_background=False)


def rows(engine: Engine) -> dict[str, int]:
    with read_session(engine) as session:
        counts = {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }
    return {name: count for name, count in counts.items() if name not in ("audit_entries", "users", "links")}


def keys(storage: Storage) -> set[str]:
    return {key for key, _, _ in storage.stored()}


def test_everything_of_a_project_goes_and_nothing_of_another(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    filled(engine, settings, factory, storage, "first")
    before, files = rows(engine), keys(storage)
    project, maker = filled(engine, settings, factory, storage, "second")
    assert keys(storage) > files
    begin(engine, project, maker)
    with pytest.raises(NotFound), read_session(engine) as session:
        collecting.get(session, "second")
    with read_session(engine) as session:
        caller = Caller.of(factory.admin())
        assert [one.slug for one in access.projects(session, caller=caller)] == ["first"]
        assert access.find(session, caller=caller, of="slug", value="second") is None
        assert [one.slug for one in projects.deleting(session)] == ["second"]
    told: dict[str, int] = {}
    projects.finish(engine, storage, project_id=project.id, progress=lambda what, n: told.update({what: n}))
    assert rows(engine) == before
    assert keys(storage) == files
    assert told["comparisons"] == 8
    assert wrong_counts(engine) == []
    with read_session(engine) as session:
        actions = session.scalars(
            select(AuditEntry.action).where(AuditEntry.target == f"project {project.id}").order_by(AuditEntry.id)
        ).all()
        assert actions[-2:] == ["project.delete", "project.deleted"]


def test_a_killed_deletion_goes_on(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, maker = filled(engine, settings, factory, storage, "first")
    begin(engine, project, maker)
    monkeypatch.setattr(projects, "ROWS_AT_ONCE", 2)
    real, steps = projects._remove, iter(range(100))
    for last in (3, 9, 30):

        def remove(*given: object, last: int = last) -> None:
            if next(steps) >= last:
                raise KeyboardInterrupt
            real(*given)

        monkeypatch.setattr(projects, "_remove", remove)
        with pytest.raises(KeyboardInterrupt):
            projects.go_on(engine, storage)
    monkeypatch.setattr(projects, "_remove", real)
    assert projects.go_on(engine, storage) == 1
    assert projects.go_on(engine, storage) == 0
    assert keys(storage) == set()
    with read_session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Project)) == 0
        assert session.scalar(select(func.count()).select_from(LeftoverFile)) == 0


def test_its_name_must_be_typed(engine: Engine, factory: Factory) -> None:
    project, maker = factory.project(slug="tone"), factory.admin()
    with pytest.raises(Invalid, match="Type “Tone”"):
        begin(engine, project, maker, name="tone")
    begin(engine, project, maker, name=" Tone ")


def test_a_running_job_is_to_be_cancelled_first(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = filled(engine, settings, factory, storage, "first")
    with write_session(engine) as session:
        job = session.scalars(select(Job)).one()
        from app.models.base import now

        job.state, job.lease_token, job.lease_until, job.finished_at = JobState.RUNNING, "x", now(), None
    with pytest.raises(Conflict, match="Cancel it first"):
        begin(engine, project, maker)


def test_it_stays_while_another_project_rests_on_its_checkpoint(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    project, maker = filled(engine, settings, factory, storage, "first")
    other = factory.project(slug="other")
    with write_session(engine) as session:
        session.add(
            Evaluation(
                project_id=other.id,
                number=1,
                checkpoint_id=1,
                opponent_model="tiny",
                goal="superiority",
                margin=0.0,
                maximum=10,
                prompts={},
                sampling={},
                seed=1,
                plan_sha256="0" * 64,
            )
        )
    with pytest.raises(Conflict, match="“Other” rests on a result of “First”"):
        begin(engine, project, maker)


def test_a_project_whose_checkpoint_another_one_s_run_starts_from_stays(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage
) -> None:
    maker = factory.engineer()
    first, other = (factory.judged(2, eval_percent=0, slug=slug) for slug in ("first", "other"))
    _, checkpoint = trained(engine, settings, first, maker)
    trained_from(engine, settings, other, maker, checkpoint)
    with pytest.raises(Conflict, match="“Other” rests on a result of “First”"):
        begin(engine, first, maker)
    begin(engine, other, maker)
    assert projects.finish(engine, storage, project_id=other.id)
    begin(engine, first, maker)
    assert projects.finish(engine, storage, project_id=first.id)
    assert "continuations" not in {name for name, count in rows(engine).items() if count}
