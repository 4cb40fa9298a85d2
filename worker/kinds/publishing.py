"""From a finished run's folder to a checkpoint: provenance into its card, files into the store, rows into the database."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.models import Job
from app.services.jobs import leases
from app.services.training import base_models, checkpoints, run_settings
from app.services.training.checkpoints import Upload
from app.storage import Storage
from worker.dpo.publish.card import write_card


@dataclass(frozen=True, slots=True)
class Finished:
    """The engine's record of the run, and where its result comes from."""

    facts: dict[str, Any]
    provenance: dict[str, Any]


def collect(session: Session, job: Job, out: Path, settings: Settings) -> Finished:
    """Read what the engine wrote, add who, from what and for which project, and write the card anew.

    Folders of this machine do not leave it: the base model is called by its name, or its hub id.
    """
    facts = checkpoints.read_facts(out)
    base = base_models.get(settings, job.base_model)
    public_name = str(base.source["id"]) if base.source.get("kind") == "hub" else base.name
    facts["base_model"] = public_name
    facts["config"] = {key: value for key, value in facts["config"].items() if key not in run_settings.WORKER_KEYS}
    chain = checkpoints.provenance(
        session,
        job=job,
        facts=facts,
        base={"weights_sha256": base.weights_sha256, "origin": base.origin, "note": base.note},
    )
    write_card(out, facts | _card_facts(job, facts, chain))
    _rename_base(out / "adapter_config.json", public_name)
    return Finished(facts, chain)


def _card_facts(job: Job, facts: dict[str, Any], chain: dict[str, Any]) -> dict[str, Any]:
    snapshot = chain["snapshot"]
    return {
        "title": f"{job.project.name}, run {job.id}",
        "method": facts.get("method"),
        "base_sha256": chain["base_model"]["weights_sha256"],
        "project": job.project.name,
        "started_by": chain["started_by"],
        "created": facts.get("created"),
        "data": {
            "snapshot": snapshot["number"],
            "snapshot_sha256": snapshot["sha256"],
            "guideline_version": chain["project"]["guideline_version"],
            "train_pairs": (facts.get("data") or {}).get("train_pairs"),
            "eval_pairs": (facts.get("data") or {}).get("eval_pairs"),
        },
        "provenance": chain,
    }


def _rename_base(path: Path, name: str) -> None:
    if path.exists():
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"base_model_name_or_path": name}, indent=2, sort_keys=True))


def upload(storage: Storage, job: Job, token: str, out: Path) -> list[Upload]:
    """Store the files under a place of this attempt's own, so that no other attempt can write over them."""
    return checkpoints.upload(storage, out, prefix=f"checkpoints/job-{job.id}/{token[:12]}")


discard = checkpoints.discard


def publish(session: Session, job: Job, token: str, uploads: Sequence[Upload], finished: Finished) -> None:
    """The checkpoint and the job's success, in one transaction. Raises LeaseLost."""
    leases.hold(session, job_id=job.id, token=token)
    checkpoints.publish(session, job=job, uploads=uploads, facts=finished.facts, provenance=finished.provenance)
    numbers = {name: finished.facts.get(name) for name in ("peak_memory_bytes", "train_seconds")}
    leases.succeed(session, job_id=job.id, token=token, numbers=numbers)
