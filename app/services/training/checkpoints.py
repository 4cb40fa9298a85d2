"""Checkpoints: what a run made, file by file, with the whole chain of where it comes from."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload, selectinload

from app import paging
from app.errors import Invalid, NotFound, PrefloopError
from app.events import log as events
from app.events.types import CheckpointSaved
from app.models import Checkpoint, CheckpointFile, Job, Judgment, Project, ProjectRole, TrainingRun
from app.models.base import now as utc_now
from app.services.accounts import access
from app.services.accounts.access import Caller
from app.storage import Storage, StoredFile


class CheckpointBroken(PrefloopError):
    """The checkpoint's files aren't what was stored."""

    status = 409
    code = "checkpoint_damaged"


FACTS = "prefloop.json"
# What may be offered for download: weights as safetensors, text, and the tokenizers' own files. Nothing pickled.
OFFERED = re.compile(
    r"(?:additional_chat_templates/)?[A-Za-z0-9][A-Za-z0-9._-]*\.(safetensors|json|md|txt|jinja|model|vocab|tiktoken)"
)
CURVES = re.compile(r"runs/(?:[A-Za-z0-9][A-Za-z0-9._-]*/)?events\.out\.tfevents\.[A-Za-z0-9._-]+")
MEDIA_TYPES = {
    "json": "application/json",
    "md": "text/markdown; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
    "jinja": "text/plain; charset=utf-8",
}


def is_offered(name: str) -> bool:
    """Whether a file of the engine's folder belongs into the checkpoint."""
    return bool(OFFERED.fullmatch(name) or CURVES.fullmatch(name))


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream")


def upload(storage: Storage, folder: Path, *, prefix: str) -> list[StoredFile]:
    """Store the files of a finished run under `prefix`. Slow: call it outside of any transaction.

    Raises Invalid if the folder isn't a whole result.
    """
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    names = [name for name in names if is_offered(name)]
    if FACTS not in names or not any(name.endswith(".safetensors") for name in names):
        raise _not_whole()
    return [storage.put_file(f"{prefix}/{name}", folder / name, name=name) for name in names]


def guideline_version(session: Session, *, run: TrainingRun) -> int:
    """The newest guidelines that somebody judged by before the run's snapshot was frozen."""
    snapshot, project = run.snapshot, run.job.project
    judged = select(func.max(Judgment.guideline_version)).where(
        Judgment.project_id == project.id, Judgment.submitted_at <= snapshot.created_at
    )
    return session.scalar(judged) or project.guideline_version


def provenance(
    *,
    run: TrainingRun,
    guideline_version: int,
    facts: Mapping[str, Any],
    base: Mapping[str, Any],
    parent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Where a checkpoint comes from, as it was. `run` has its job, project, snapshot and starter loaded.

    facts: the engine's own record (prefloop.json). base: what the worker knows of the base model. parent: what `parents.told` says
    of the checkpoint that the run started from.
    """
    job, snapshot, project = run.job, run.snapshot, run.job.project
    return {
        "project": {"slug": project.slug, "name": project.name, "guideline_version": guideline_version},
        "snapshot": {
            "id": snapshot.id,
            "number": snapshot.number,
            "sha256": snapshot.sha256,
            "rule": snapshot.rule,
            "counts": asdict(snapshot.counts),
        },
        "base_model": {"name": run.base_model, "weights_sha256": facts.get("base_sha256"), **base},
        **({"parent": dict(parent)} if parent else {}),
        "job": {
            "id": job.id,
            "worker": job.worker,
            "attempts": job.attempts,
            "created_at": job.created_at.isoformat(),
            "started_at": job.started_at.isoformat() if job.started_at else None,
        },
        "config": facts.get("config") or run.config,
        "seed": facts.get("seed", run.config.get("seed")),
        "loss": facts.get("loss"),
        "versions": facts.get("versions", {}),
        "device": facts.get("device"),
        "number_type": facts.get("number_type"),
        "threads": facts.get("threads"),
        "token_budget": facts.get("token_budget"),
        "started_by": job.created_by.username if job.created_by else None,
    }


def publish(
    session: Session,
    *,
    run: TrainingRun,
    files: Sequence[StoredFile],
    facts: Mapping[str, Any],
    provenance: Mapping[str, Any],
    name: str = "final",
    now: datetime | None = None,
) -> Checkpoint:
    """The rows of a checkpoint whose files are stored, and its event, in the transaction that ends the job."""
    metrics = facts.get("metrics") or {}
    checkpoint = Checkpoint(
        job_id=run.job_id,
        name=name,
        step=int(facts.get("step") or run.job.step),
        provenance=dict(provenance),
        metrics={part: metrics.get(part) or {} for part in ("before", "after", "answers")},
        created_at=now or utc_now(),
    )
    session.add(checkpoint)
    session.flush()
    session.add_all(CheckpointFile(checkpoint_id=checkpoint.id, **asdict(file)) for file in files)
    size = sum(file.size for file in files)
    saved = CheckpointSaved(step=checkpoint.step, checkpoint_id=checkpoint.id, name=name, files=len(files), size=size)
    events.append(session, job=run.job_id, event=saved, now=now)
    session.flush()
    return checkpoint


def get(session: Session, checkpoint_id: int) -> Checkpoint:
    """The checkpoint with its files, its run, job, snapshot, project and starter. Raises NotFound."""
    checkpoint = (
        session.scalars(_loaded().where(Checkpoint.id == checkpoint_id)).first() if 0 < checkpoint_id < 2**31 else None
    )
    if checkpoint is None:
        raise NotFound(f"There is no checkpoint {checkpoint_id}.", "Look at the list of checkpoints.")
    return checkpoint


def of_run(session: Session, *, run: TrainingRun) -> list[Checkpoint]:
    """A run's checkpoints, oldest first."""
    return list(session.scalars(_loaded().where(Checkpoint.job_id == run.job_id).order_by(Checkpoint.id)))


def listing(
    session: Session, *, project: Project | None = None, caller: Caller | None = None, page: int = 1, size: int = 50
) -> paging.Page[Checkpoint]:
    """Checkpoints, newest first, each with its files, run, job and starter; with a caller, those of the projects that
    they are an engineer of."""
    query = _loaded().join(Job, Job.id == Checkpoint.job_id).order_by(Checkpoint.id.desc())
    if project is not None:
        query = query.where(Job.project_id == project.id)
    if caller is not None:
        query = query.where(access.within(Job.project_id, caller=caller, least=ProjectRole.ENGINEER))
    return paging.fetch(session, query, page=page, size=size)


def file(session: Session, *, checkpoint_id: int, name: str) -> tuple[Checkpoint, StoredFile]:
    """One file by its exact name. Raises NotFound."""
    checkpoint = get(session, checkpoint_id)
    for file in checkpoint.files:
        if file.name == name:
            return checkpoint, file
    raise NotFound(f"Checkpoint {checkpoint_id} has no file “{name[:120]}”.", "Its page lists its files.")


def fetch(storage: Storage, checkpoint: Checkpoint, folder: Path, *, names: Collection[str] | None = None) -> Path:
    """Copies a checkpoint's files into a folder, only those of `names` where they are given, and checks each hash; returns the folder.
    Slow: call it outside of any transaction. Raises CheckpointBroken."""
    for one in checkpoint.files:
        if names is not None and one.name not in names:
            continue
        target = folder / one.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if storage.fetch(one.key, target).sha256 != one.sha256:
            raise CheckpointBroken(
                f"{one.name} of checkpoint {checkpoint.id} isn't what was stored: its SHA-256 differs.",
                "Look at the artifact store.",
            )
    return folder


def size(checkpoint: Checkpoint) -> int:
    """Bytes of all its files."""
    return sum(file.size for file in checkpoint.files)


def folder_name(checkpoint: Checkpoint) -> str:
    """The name of its folder and archive on the machine of whoever downloads it."""
    return f"{checkpoint.run.job.project.slug}-checkpoint-{checkpoint.id}"


def read_facts(folder: Path) -> dict[str, Any]:
    """The engine's record of a finished run, which it writes last. Raises Invalid where there is none."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise _not_whole() from error
    if not isinstance(facts, dict):
        raise _not_whole()
    return facts


def _not_whole() -> Invalid:
    return Invalid("The run ended without a whole checkpoint.", "Look at its last lines, and try again.")


def _loaded() -> Any:
    run = joinedload(Checkpoint.run)
    job = run.joinedload(TrainingRun.job)
    return select(Checkpoint).options(
        selectinload(Checkpoint.file_rows),
        run.joinedload(TrainingRun.snapshot),
        run.joinedload(TrainingRun.continuation),
        job.joinedload(Job.project),
        job.joinedload(Job.created_by),
    )


def names_any(session: Session, *, keys: Sequence[str]) -> bool:
    """Whether a checkpoint lists a file of one of these keys."""
    named = select(CheckpointFile.id).where(CheckpointFile.key.in_(keys)).limit(1)
    return session.scalar(named) is not None
