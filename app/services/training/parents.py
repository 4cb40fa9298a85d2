"""The checkpoint that a run starts from instead of its base model; as it was then, it is the run's reference too."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import Conflict, Invalid, NotFound
from app.models import Checkpoint, TrainingRun
from app.services.datasets import ancestors
from app.services.training import base_models, checkpoints, loading, run_settings
from app.storage import Storage

FIELD = "from_checkpoint"
# What an adapter is: a run that trains it on has no say in it.
SHAPE = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "use_rslora", "use_dora")


@dataclass(frozen=True, slots=True)
class Parent:
    """A checkpoint to start from. `shape`: the settings that its adapter was made with; of a whole model `lora_r` 0 alone.
    `base_sha256`: the base weights that it was trained on, empty where it doesn't say. `in_4bit`: whether they were held in 4 bits."""

    checkpoint_id: int
    project_id: int
    base_model: str
    base_sha256: str
    shape: dict[str, Any]
    in_4bit: bool = False

    @property
    def is_adapter(self) -> bool:
        return self.shape["lora_r"] != 0

    def base(self, asked: str) -> str:
        """The base model of a run from here. Raises Invalid where another one was asked for."""
        if asked.strip() not in ("", self.base_model):
            raise Invalid(
                f"Checkpoint {self.checkpoint_id} was trained on {self.base_model}, and a run from it on {asked.strip()[:64]} was "
                "asked for.",
                f"Choose {self.base_model}, or start from the base model.",
                field="base_model",
            )
        return self.base_model

    def config(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a run from here, checked. Raises Invalid where they want another adapter than is there."""
        checked = run_settings.validate({"load_in_4bit": self.in_4bit} | dict(given))
        for key, value in self.shape.items():
            if key in given and checked[key] != value:
                label = run_settings.BY_KEY[key].label
                asked = f"and “{label}” {_plain(checked[key])} was asked for."
                what = (
                    f"has “{label}” {_plain(value)}" if self.is_adapter else "is a whole model, of which all is trained"
                )
                raise run_settings.refuse(
                    key,
                    f"Checkpoint {self.checkpoint_id} {what}, {asked}",
                    "Leave it out, or start from the base model.",
                )
        return run_settings.validate(checked | self.shape)


def _plain(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:g}" if isinstance(value, float) else str(value)


def find(session: Session, checkpoint_id: int) -> Parent:
    """Raises NotFound. Whether the person may use it is the caller's to ask."""
    try:
        row = checkpoints.get(session, checkpoint_id)
    except NotFound as missing:
        raise NotFound(missing.what, missing.next_step, field=FIELD) from None
    config = row.run.config
    shape = {key: config.get(key, run_settings.BY_KEY[key].default) for key in SHAPE}
    return Parent(
        row.id,
        row.run.job.project_id,
        row.run.base_model,
        str((row.provenance.get("base_model") or {}).get("weights_sha256") or ""),
        shape if loading.is_adapter(row) else {"lora_r": 0},
        bool(config.get("load_in_4bit")),
    )


def require(settings: Settings, parent: Parent) -> None:
    """Raises Invalid where the base model isn't here, or has other weights than the checkpoint was trained on. It reads a file:
    not within a write transaction."""
    try:
        base = base_models.get(settings, parent.base_model)
    except NotFound as missing:
        raise Invalid(missing.what, missing.next_step, field="base_model") from None
    if parent.is_adapter and parent.base_sha256 and base.weights_sha256 != parent.base_sha256:
        raise Invalid(
            f"Checkpoint {parent.checkpoint_id} was trained on other weights than {parent.base_model} has now.",
            "Prepare those weights anew, or start from the base model.",
            field=FIELD,
        )


def for_parts(session: Session, *, run: TrainingRun) -> Parent | None:
    """What runs on parts of this run's pairs start from: what it started from itself; None for its base model.

    Raises Conflict where that was trained on some of these pairs: it would know what a part leaves out.
    """
    if run.parent_id is None:
        return None
    if not holds_new_pairs_only(run) and ancestors.saw_training_pairs(
        session, checkpoint_id=run.parent_id, snapshot_id=run.snapshot_id
    ):
        raise Conflict(
            f"Run {run.job_id} started from checkpoint {run.parent_id}, which had been trained on pairs of the run's snapshot "
            "before: what it learned of a pair can't be left out.",
            "Choose a run that started from its base model, or from a checkpoint on new pairs only.",
        )
    return find(session, run.parent_id)


def holds_new_pairs_only(run: TrainingRun) -> bool:
    """Whether the run's snapshot was frozen with what is new to the checkpoint that it started from. No: it may still be so."""
    return run.parent_id is not None and run.snapshot.rule.get("new_to_checkpoint") == run.parent_id


def fetch(storage: Storage, parent: Checkpoint, folder: Path) -> Path:
    """The folder of a checkpoint to start from: of an adapter only what it is made of. Raises CheckpointBroken, NotFound."""
    names = (loading.ADAPTER, loading.ADAPTER_WEIGHTS) if loading.is_adapter(parent) else None
    return checkpoints.fetch(storage, parent, folder, names=names)


def start(model: Path, fetched: Path | None) -> tuple[Path, dict[str, Any]]:
    """What the engine loads for a run on a base model's folder that starts from what `fetch` fetched: the model, and settings
    that go with it."""
    if fetched is None:
        return model, {}
    return (model, {"adapter": str(fetched)}) if (fetched / loading.ADAPTER).exists() else (fetched, {})


def told(session: Session, *, run: TrainingRun) -> dict[str, Any] | None:
    """What a checkpoint's provenance says of the one that its run started from, and of those before it; None for a base model."""
    if run.parent_id is None:
        return None
    parent = checkpoints.get(session, run.parent_id)
    snapshot = parent.provenance.get("snapshot") or {}
    return {
        "checkpoint": parent.id,
        "run": parent.job_id,
        "step": parent.step,
        "snapshot": {"number": snapshot.get("number"), "sha256": snapshot.get("sha256")},
        "weights": weights(parent),
        "parent": parent.provenance.get("parent"),
    }


def weights(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each of its files of weights."""
    return {file.name: file.sha256 for file in checkpoint.files if file.name.endswith(".safetensors")}
