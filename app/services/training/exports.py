"""Exports: a checkpoint in a form that others serve, made by a job, one a checkpoint and format."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from app.config import Settings
from app.errors import Invalid, NotFound
from app.models import Checkpoint, Export, ExportFormat, Job, JobKind, JobState, TrainingRun, User
from app.services.jobs import jobs
from app.services.training import base_models, gguf_support, loading
from app.storage import Storage, StoredFile

RECORD = "export.json"
OFFERED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.(gguf|safetensors|json|md|txt|jinja|model|vocab)|Modelfile")
TITLES = {
    ExportFormat.MERGED: "Merged weights (safetensors)",
    ExportFormat.GGUF_F16: "GGUF, 16 bits (f16)",
    ExportFormat.GGUF_Q8_0: "GGUF, 8 bits (q8_0)",
}
# Failed and cancelled exports are made again by the same job.
ENDED_BADLY = (JobState.FAILED, JobState.CANCELLED)


class CannotExport(Invalid):
    """A checkpoint that can't be exported in this format, told before a job is queued."""

    code = "export_refused"


def refusals(settings: Settings, storage: Storage, *, checkpoint: Checkpoint) -> dict[ExportFormat, str]:
    """The formats in which a checkpoint can't be exported, each with its reason. Reads files: call it outside of any
    write transaction.

    A base model that isn't on this machine refuses nothing: a worker may have it.
    """
    try:
        reason = _gguf_refusal(settings, storage, checkpoint)
    except ValueError:
        reason = "The model's config.json or tokenizer.json isn't readable JSON."
    return {format: reason for format in ExportFormat if format is not ExportFormat.MERGED} if reason else {}


def _gguf_refusal(settings: Settings, storage: Storage, checkpoint: Checkpoint) -> str | None:
    stored = {file.name: file.key for file in checkpoint.files}
    base = None if not loading.is_adapter(checkpoint) else _base_folder(settings, checkpoint)
    config = _json_of(storage, stored.get("config.json"), base)
    if config is None:
        return None
    if problem := gguf_support.architecture_refusal(config):
        return problem
    if "tokenizer.json" in stored:
        return _refusal_of_stored(storage, stored["tokenizer.json"])
    file = base / "tokenizer.json" if base else None
    if file is None or not file.is_file():
        return "The model has no tokenizer.json."
    return _refusal_of_file(file, file.stat().st_mtime_ns)


def _base_folder(settings: Settings, checkpoint: Checkpoint) -> Path | None:
    try:
        return base_models.path(settings, checkpoint.run.base_model)
    except NotFound:
        return None


def _json_of(storage: Storage, key: str | None, base: Path | None) -> dict[str, Any] | None:
    """`config.json` of a whole checkpoint, else of its base model; None where neither is here."""
    if key is not None:
        return json.loads(storage.read_bytes(key))
    file = base / "config.json" if base else None
    return json.loads(file.read_bytes()) if file and file.is_file() else None


# Kept, since a tokenizer is megabytes of JSON: what lies under a key never changes, a file's time says when it did.
@lru_cache(maxsize=64)
def _refusal_of_stored(storage: Storage, key: str) -> str | None:
    return gguf_support.tokenizer_refusal(json.loads(storage.read_bytes(key)))


@lru_cache(maxsize=64)
def _refusal_of_file(file: Path, changed: int) -> str | None:
    return gguf_support.tokenizer_refusal(json.loads(file.read_bytes()))


def create(
    session: Session,
    *,
    checkpoint: Checkpoint,
    format: ExportFormat,
    by: User | None,
    refused: Mapping[ExportFormat, str],
) -> Export:
    """Queue an export, or find the one that this checkpoint has in this format already.

    One that failed or was cancelled is tried again. refused: what `refusals` said. Raises CannotExport.
    """
    if reason := refused.get(format):
        raise CannotExport(reason, "Export it as merged weights instead.", field="format")
    # One at a time for a checkpoint: a double click finds the first click's job.
    session.execute(select(Checkpoint.id).where(Checkpoint.id == checkpoint.id).with_for_update())
    known = session.scalars(
        _loaded().where(Export.checkpoint_id == checkpoint.id, Export.format == format)
    ).one_or_none()
    if known is not None:
        if known.job.state in ENDED_BADLY:
            jobs.retry(session, job=known.job, by=by)
        return known
    job, _ = jobs.queue(
        session,
        kind=JobKind.EXPORT,
        project_id=checkpoint.run.job.project_id,
        by=by,
        checkpoint=checkpoint.id,
        format=format.value,
    )
    session.add(Export(job_id=job.id, checkpoint_id=checkpoint.id, format=format, files=(), proof={}))
    session.flush()
    return get(session, job.id)


def get(session: Session, job_id: int) -> Export:
    """The export that a job makes, with the job, its checkpoint and the checkpoint's files and run. Raises NotFound."""
    export = session.scalars(_loaded().where(Export.job_id == job_id)).one_or_none()
    if export is None:
        raise NotFound(f"There is no export {job_id}.", "A checkpoint's page lists its exports.")
    return export


def of_checkpoint(session: Session, *, checkpoint: Checkpoint) -> list[Export]:
    """A checkpoint's exports in the formats' order, each with its job."""
    rows = session.scalars(_loaded().where(Export.checkpoint_id == checkpoint.id))
    return sorted(rows, key=lambda export: list(ExportFormat).index(export.format))


def whole(session: Session, *, checkpoint_id: int, format: str) -> Export:
    """A finished export. Raises NotFound, also for one that isn't finished."""
    known = format if format in set(ExportFormat) else None
    export = session.scalars(
        _loaded().where(Export.checkpoint_id == checkpoint_id, Export.format == known)
    ).one_or_none()
    if export is None or not export.files:
        raise NotFound(
            f"Checkpoint {checkpoint_id} has no finished export “{format[:24]}”.",
            "Its page says how far its exports are.",
        )
    return export


def file(session: Session, *, checkpoint_id: int, format: str, name: str) -> tuple[Export, StoredFile]:
    """One file of a finished export by its exact name. Raises NotFound."""
    export = whole(session, checkpoint_id=checkpoint_id, format=format)
    for file in export.files:
        if file.name == name:
            return export, file
    raise NotFound(f"The export “{format}” has no file “{name[:120]}”.", "The checkpoint's page lists its files.")


def size(export: Export) -> int:
    """Bytes of all its files."""
    return sum(file.size for file in export.files)


def upload(storage: Storage, folder: Path, *, prefix: str) -> tuple[list[StoredFile], dict[str, Any]]:
    """Store a finished export's files under `prefix`; returns them and the engine's proof. Slow: call it outside of any
    transaction. Raises Invalid if the folder isn't a whole export."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and OFFERED.fullmatch(path.name))
    if RECORD not in names or not any(name.endswith((".safetensors", ".gguf")) for name in names):
        raise Invalid("The export ended without a whole result.", "Look at its last lines, and try again.")
    proof = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return [storage.put_file(f"{prefix}/{name}", folder / name) for name in names], proof


def publish(session: Session, *, job_id: int, files: list[StoredFile], proof: Mapping[str, Any]) -> Export:
    """Name an export's stored files, in the transaction that ends its job."""
    export = session.scalars(select(Export).where(Export.job_id == job_id).with_for_update()).one()
    export.files, export.proof = tuple(files), dict(proof)
    session.flush()
    return export


def folder_name(export: Export) -> str:
    """The name of its folder and archive on the machine of whoever downloads it."""
    return f"{export.checkpoint.run.job.project.slug}-checkpoint-{export.checkpoint_id}-{export.format.value}"


def _loaded() -> Select[Export]:
    run = joinedload(Export.checkpoint).joinedload(Checkpoint.run)
    job = run.joinedload(TrainingRun.job)
    own = joinedload(Export.job)
    return select(Export).options(
        joinedload(Export.checkpoint).selectinload(Checkpoint.file_rows),
        run.joinedload(TrainingRun.snapshot),
        job.joinedload(Job.project),
        job.joinedload(Job.created_by),
        own.joinedload(Job.project),
        own.joinedload(Job.created_by),
    )
