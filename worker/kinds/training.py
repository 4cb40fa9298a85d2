"""Training: a snapshot and a base model in, the DPO engine's run, a checkpoint with its whole provenance out."""

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy.orm import Session

from app.config import Settings
from app.db import after_commit
from app.events.types import Event
from app.models import Checkpoint, Job, JobKind, TrainingRun
from app.services.datasets import snapshots
from app.services.loop import retraining
from app.services.loop.batches import Evaluate
from app.services.loop.retraining import Receipt
from app.services.training import base_models, checkpoints, parents, run_settings, runs
from app.storage import Storage
from worker.dpo.publish.card import write_card
from worker.kinds.kind import Need, Result

TRACKERS = {"wandb": ("WANDB_*",), "mlflow": ("MLFLOW_*",)}
STATE = re.compile(r"step-(\d+)")


class Training:
    """A job that trains. Its folder holds the pairs, `config.json`, the engine's `out` with its training states, and `parent`: the
    checkpoint that it starts from, if it does."""

    kind: ClassVar[JobKind] = JobKind.TRAINING
    program: ClassVar[str] = "training process"

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self._run: TrainingRun
        self._guideline_version: int
        self._receipt: Receipt | None
        self._parent: Checkpoint | None = None
        self._ancestry: dict[str, Any] | None = None

    @staticmethod
    def need(settings: Settings) -> Need:
        """A launcher spreads the run over every GPU that the worker sees."""
        return Need.EVERY_GPU if settings.train_launcher.strip() else Need.ONE_GPU

    def inputs(self, session: Session) -> None:
        self._run = runs.get(session, self._job.id)
        self._guideline_version = checkpoints.guideline_version(session, run=self._run)
        self._receipt = retraining.receipt(session, job_id=self._job.id)
        if self._run.parent_id is not None:
            self._parent = checkpoints.get(session, self._run.parent_id)
            self._ancestry = parents.told(session, run=self._run)

    def command(self, folder: Path, storage: Storage) -> list[str]:
        """Raises InputsBroken for a damaged snapshot, CheckpointBroken for a damaged parent, NotFound for a base model or file that
        isn't there."""
        model = base_models.path(self._settings, self._run.base_model)
        pairs = snapshots.fetch_pairs(storage, self._run.snapshot, folder)
        start = parents.fetch(storage, self._parent, folder / "parent") if self._parent else None
        model, starting = parents.start(model, start)
        config = folder / "config.json"
        cache = self._settings.data_dir / "cache" / "reference"
        # A run that was queued before there was a choice keeps the plan that it was queued with.
        settings = {"pair_order": "position"} | self._run.config | {"reference_cache": str(cache)} | starting
        config.write_text(json.dumps(settings, indent=1))
        launcher = shlex.split(self._settings.train_launcher) or [sys.executable]
        command = [*launcher, "-m", "worker.dpo", "train", "--model", str(model), "--data", str(pairs["train.jsonl"])]
        if "eval.jsonl" in pairs:
            command += ["--eval-data", str(pairs["eval.jsonl"])]
        return [*command, "--out", str(folder / "out"), "--config", str(config)]

    def variables(self) -> Sequence[str]:
        """A tracker's own, where the run reports to it."""
        wanted = self._run.config.get("report_to") or []
        names = [wanted] if isinstance(wanted, str) else wanted
        return [pattern for name in names for pattern in TRACKERS.get(str(name), ())]

    def secrets(self) -> Mapping[str, str]:
        return {}

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        runs.record(session, job_id=self._job.id, printed=printed)

    def kept(self, folder: Path) -> str:
        states = folder / "out" / "state"
        names = [path.name for path in states.iterdir()] if states.is_dir() else []
        steps = [int(match[1]) for name in names if (match := STATE.fullmatch(name))]
        return f"The training state of step {max(steps)} is kept; Retry goes on from it." if steps else ""

    def store_result(self, folder: Path, storage: Storage) -> Result:
        """Files of each attempt go to a place of its own, so that no other attempt can write over them."""
        out = folder / "out"
        facts, provenance = self._complete(out)
        token = str(self._job.lease_token)
        files = checkpoints.upload(storage, out, prefix=f"checkpoints/job-{self._job.id}/{token[:12]}")

        def end(session: Session) -> None:
            made = checkpoints.publish(session, run=self._run, files=files, facts=facts, provenance=provenance)
            after_commit(session, Evaluate(made.id))
            numbers = {name: facts.get(name) for name in ("peak_memory_bytes", "train_seconds")}
            runs.record_end(session, job_id=self._job.id, numbers=numbers)

        keys = [file.key for file in files]
        return Result(end, lambda session: checkpoints.names_any(session, keys=keys), keys)

    def _complete(self, out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Add to what the engine wrote who trained, from what and for which project, and write the card anew.

        Folders of this machine don't leave it: the base model is called by its name, or its hub id.
        Returns the engine's record of the run, and its provenance.
        """
        facts = checkpoints.read_facts(out)
        base = base_models.get(self._settings, self._run.base_model)
        public_name = str(base.source["id"]) if base.source.get("kind") == "hub" else base.name
        facts["base_model"] = public_name
        # A folder's name loads nowhere. This names no repository of a hub either, where anybody may take a name.
        loads = public_name if base.source.get("kind") == "hub" else f"/path/to/{base.name}"
        facts["base_loads_from"] = loads
        facts["config"] = {key: value for key, value in facts["config"].items() if key not in run_settings.WORKER_KEYS}
        provenance = checkpoints.provenance(
            run=self._run,
            guideline_version=self._guideline_version,
            facts=facts,
            base={"weights_sha256": base.weights_sha256, "origin": base.origin, "note": base.note},
            parent=self._ancestry,
        )
        facts.pop("parent_adapter", None)  # a folder of this machine; the provenance names the checkpoint
        if self._receipt is not None:
            facts["retrained_without"] = self._receipt.with_weights(out).as_dict()
        write_card(out, facts | _card_facts(self._run, facts, provenance))
        _rename_base(out / "adapter_config.json", loads)
        return facts, provenance


def _card_facts(run: TrainingRun, facts: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    project, snapshot, data = run.job.project, provenance["snapshot"], facts.get("data") or {}
    parent = provenance.get("parent")
    return {
        **({"starts_from": f"checkpoint {parent['checkpoint']} of run {parent['run']}"} if parent else {}),
        "title": f"{project.name}, run {run.job_id}",
        "method": facts.get("method"),
        "base_sha256": provenance["base_model"]["weights_sha256"],
        "project": project.name,
        "started_by": provenance["started_by"],
        "created": facts.get("created"),
        "data": {
            "snapshot": snapshot["number"],
            "snapshot_sha256": snapshot["sha256"],
            "guideline_version": provenance["project"]["guideline_version"],
            "train_pairs": data.get("train_pairs"),
            "eval_pairs": data.get("eval_pairs"),
        },
        "provenance": provenance,
    }


def _rename_base(path: Path, name: str) -> None:
    if path.exists():
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"base_model_name_or_path": name}, indent=2, sort_keys=True))
