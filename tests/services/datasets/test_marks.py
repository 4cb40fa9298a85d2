"""What of earlier snapshots was excluded since."""

from sqlalchemy import Engine

from app.db import read_session, write_session
from app.models import Snapshot
from app.models.base import now
from app.services.datasets import marks
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude, lift


def counted(engine: Engine) -> dict[int, int]:
    with read_session(engine) as session:
        return marks.pairs_excluded(session, snapshot_ids=[1, 2])


def test_marks_are_counted_once_and_end_with_the_exclusion(engine: Engine, factory: Factory) -> None:
    project, lead = factory.judged(4), factory.admin()
    factory.snapshot(project)
    row = exclude(engine, project, "pair", 1, lead)
    for _ in range(2):
        marks.write(engine, exclusion_id=row.id)
    factory.snapshot(project)
    assert counted(engine) == {1: 1}
    lift(engine, project, row, lead)
    assert counted(engine) == {}


def test_what_was_excluded_while_a_snapshot_was_frozen_is_marked(engine: Engine, factory: Factory) -> None:
    project, lead = factory.judged(4), factory.admin()
    began = now()
    exclude(engine, project, "pair", 1, lead)
    with write_session(engine) as session:
        session.query(Snapshot).count()
    factory.snapshot(project)
    marks.write_since(engine, project_id=project.id, since=began)
    assert counted(engine) == {}, "the snapshot doesn't hold it"
