"""A snapshot without what was excluded since. What it is for is tested in tests/services/loop/test_retraining.py."""

import pytest
from sqlalchemy import Engine

from app.db import read_session
from app.errors import Conflict, SnapshotEmpty
from app.models import Snapshot
from app.services.datasets import members, snapshots, without
from app.storage import Storage
from tests.factory import Factory
from tests.services.collecting.test_exclusions import exclude


def loaded(engine: Engine) -> Snapshot:
    with read_session(engine) as session:
        return snapshots.get(session, 1)


def test_it_says_what_it_left_out(engine: Engine, factory: Factory, storage: Storage) -> None:
    project, lead = factory.judged(3, eval_percent=0), factory.admin()
    factory.snapshot(project)
    with pytest.raises(Conflict, match="is excluded"):
        without.freeze(engine, snapshot=loaded(engine), by_id=None, storage=storage)
    exclude(engine, project, "pair", 3, lead)
    made, told = without.freeze(engine, snapshot=loaded(engine), by_id=lead.id, storage=storage)
    assert (told.left_out, told.anew, made.number, made.counts.train) == (1, 0, 2, 2)
    with read_session(engine) as session:
        assert members.holding(session, project_id=project.id, comparison_id=3) == [1]
        assert members.holding(session, project_id=project.id, comparison_id=2) == [1, 2]
    for number in (1, 2):
        exclude(engine, project, "pair", number, lead)
    with pytest.raises(SnapshotEmpty):
        without.freeze(engine, snapshot=loaded(engine), by_id=None, storage=storage)
