"""What a worker fetches for a run that starts from a checkpoint."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.services.jobs import jobs
from app.services.training import checkpoints, parents, runs
from app.storage import Storage, StoredFile
from tests.factory import Factory
from tests.services.training.trained import trained
from worker.kinds.training import Training


def test_a_damaged_checkpoint_to_start_from_is_named(
    engine: Engine, settings: Settings, factory: Factory, storage: Storage, tmp_path: Path
) -> None:
    engineer = factory.engineer()
    project = factory.judged(3, eval_percent=0)
    _, start = trained(engine, settings, project, engineer)
    factory.comparison(project)
    assert factory.judge(project, engineer)
    with read_session(engine) as session:
        parent = parents.find(session, start.id)
    run = runs.train_on_current(
        engine, project=project, by_id=engineer.id, base_model="tiny", config={}, storage=storage, parent=parent
    )
    (weights,) = (file for file in checkpoint_files(engine, start.id) if file.name == "adapter_model.safetensors")
    with read_session(engine) as session:
        kind = Training(jobs.get(session, run.job_id), settings)
        kind.inputs(session)
    command = kind.command(tmp_path, storage)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["adapter"] == str(tmp_path / "parent") and command[command.index("--model") + 1].endswith("tiny")
    assert {path.name for path in (tmp_path / "parent").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    storage.put_bytes(weights.key, b"other weights")
    with pytest.raises(
        checkpoints.CheckpointBroken, match=f"adapter_model.safetensors of checkpoint {start.id} isn't what was stored"
    ):
        kind.command(tmp_path, storage)


def checkpoint_files(engine: Engine, checkpoint_id: int) -> tuple[StoredFile, ...]:
    with read_session(engine) as session:
        return checkpoints.get(session, checkpoint_id).files
