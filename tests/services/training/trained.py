"""A finished run and its checkpoint, without training anything."""

from typing import Any

from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.models import Checkpoint, Project, TrainingRun, User
from app.services.training import parents, runs
from app.storage import get_storage
from tests.pretend_worker import PretendWorker, prepare_model


def trained(
    engine: Engine, settings: Settings, project: Project, engineer: User, files: dict[str, bytes] | None = None
) -> tuple[TrainingRun, Checkpoint]:
    """`files`: what the checkpoint holds; by default an adapter."""
    if not (settings.models / "tiny").exists():
        prepare_model(settings)
    run = runs.train_on_current(
        engine, project=project, by_id=engineer.id, base_model="tiny", config={}, storage=get_storage(settings)
    )
    worker = PretendWorker(engine, settings)
    worker.claim()
    return run, worker.publish(files)


def trained_from(
    engine: Engine, settings: Settings, project: Project, engineer: User, start: Checkpoint, **more: Any
) -> tuple[TrainingRun, Checkpoint]:
    """A finished run from a checkpoint, on pairs that are new to it unless `more` says otherwise."""
    with read_session(engine) as session:
        parent = parents.find(session, start.id)
    run = runs.train_on_current(
        engine,
        project=project,
        by_id=engineer.id,
        base_model="",
        config={},
        storage=get_storage(settings),
        parent=parent,
        **{"new_pairs_only": True, **more},
    )
    worker = PretendWorker(engine, settings)
    worker.claim()
    return run, worker.publish()
