"""A finished run and its checkpoint, without training anything."""

from sqlalchemy import Engine

from app.config import Settings
from app.models import Checkpoint, Project, TrainingRun, User
from app.services.training import runs
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
