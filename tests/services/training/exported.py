"""A finished export of a checkpoint, without computing anything."""

from typing import Any

from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Checkpoint, Export, ExportFormat, JobKind, User
from app.services.jobs import leases
from app.services.training import checkpoints, exports
from app.storage import get_storage
from tests.pretend_worker import PretendWorker

PROOF: dict[str, Any] = {
    "format": 1,
    "as": "gguf-q8_0",
    "checks": [
        {"name": "prompts", "reader": "llama.cpp", "passed": True, "says": "All 6 prompts become the same tokens."},
        {"name": "log-probabilities", "reader": "llama.cpp", "passed": True, "says": "Within 0.036 nats on average."},
    ],
    "training_moved": 0.21,
    "notes": [],
    "not_checked": ["llama.cpp isn't installed: its tokenizer was not compared."],
    "modelfile": "Modelfile: Ollama's ChatML template renders the same text.",
}
FILES = {"model-q8_0.gguf": b"GGUF" * 4000, "Modelfile": b"FROM ./model-q8_0.gguf\n", "export.json": b"{}"}


def wanted(engine: Engine, checkpoint: Checkpoint, by: User, format: ExportFormat = ExportFormat.GGUF_Q8_0) -> Export:
    """A queued export, as the page asks for it."""
    with write_session(engine) as session:
        row = checkpoints.get(session, checkpoint.id)
        return exports.create(session, checkpoint=row, format=format, by=session.merge(by), refused={})


def exported(
    engine: Engine, settings: Settings, checkpoint: Checkpoint, by: User, proof: dict[str, Any] | None = None
) -> Export:
    """A finished one."""
    export = wanted(engine, checkpoint, by)
    worker = exporter(engine, settings)
    worker.claim()
    storage = get_storage(settings)
    files = [storage.put_bytes(f"exports/{export.job_id}/{name}", data, name=name) for name, data in FILES.items()]
    with write_session(engine) as session:
        exports.publish(session, job_id=export.job_id, files=files, proof=proof or PROOF)
        leases.succeed(session, job_id=export.job_id, token=worker.token)
    with read_session(engine) as session:
        return exports.get(session, export.job_id)


def exporter(engine: Engine, settings: Settings) -> PretendWorker:
    """A worker that takes only exports."""
    return PretendWorker(engine, settings, name="exporter", kinds=(JobKind.EXPORT,))
