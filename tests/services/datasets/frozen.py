"""What tests of datasets do again and again: judge, look, freeze, read the files."""

import json
from typing import Any

from app.db import read_session
from app.models import Project, Snapshot, User
from app.services.collecting import judgments
from app.services.datasets import snapshots
from app.services.datasets.snapshots import Preview
from app.storage import Storage
from tests.factory import Factory


def freeze(factory: Factory, project: Project, storage: Storage, by: User | None = None, **rule: object) -> Snapshot:
    by_id = by.id if by else None
    return snapshots.freeze(factory.engine, project=project, by_id=by_id, storage=storage, rule=rule)


def preview(factory: Factory, project: Project, **rule: object) -> Preview:
    with read_session(factory.engine) as session:
        return snapshots.preview(session, project=project, rule=rule)


def lines(storage: Storage, snapshot: Snapshot) -> list[dict[str, Any]]:
    return [json.loads(line) for file in snapshot.files for line in storage.read_bytes(file.key).splitlines()]


def judge_all(factory: Factory, project: Project, *choices: judgments.SideChoice, user: User | None = None) -> None:
    user = user or factory.user()
    for choice in choices:
        assert factory.judge(project, user, choice)
