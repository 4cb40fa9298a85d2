"""Training states: everything that a killed run needs to go on as if nothing had happened.

Each is a folder `OUT/state/step-N` with tensors in safetensors and the rest in JSON; nothing is pickled. We write it
beside its final name, flush it to the disk and rename it, so it is whole or absent. Only then we remove the one before.
The random generators need no place in it: each step seeds them anew, from the run's seed and the step's number.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.dpo.ground.disk import sync
from worker.dpo.ground.errors import BadSetting

FOLDER = "state"
FORMAT = 1


class StateError(BadSetting):
    """A training state of another run, or one that can't be read. The text says what to do."""


@dataclass
class Progress:
    """Where a run stands: `step` optimizer steps are done.

    token_budget: tokens of one forward, which shrinks when memory runs out. seconds: time in training so far.
    """

    step: int = 0
    token_budget: int = 0
    best_value: float | None = None
    best_step: int = 0
    evaluations_without_gain: int = 0
    reward_mean: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    pairs_seen: int = 0


@dataclass(frozen=True)
class TrainingState:
    """What `save` keeps of a run: where it stands, its weights and moments by name, and its scalars (JSON)."""

    progress: Progress
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def save(
    out: Path, *, progress: Progress, fingerprint: str, tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> Path:
    """Write the training state of `progress.step`, then drop older ones. Raises OSError, and the older one stays whole."""
    folder = out / FOLDER / f"step-{progress.step:08d}"
    staging = folder.with_suffix(".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            staging / "tensors.safetensors",
        )
        facts = {"format": FORMAT, "fingerprint": fingerprint, "progress": vars(progress), "numbers": numbers}
        (staging / "state.json").write_text(json.dumps(facts), encoding="utf-8")
        for path in (*staging.iterdir(), staging):
            sync(path)
    except BaseException as problem:
        shutil.rmtree(staging, ignore_errors=True)
        # safetensors reports a full disk as its own error.
        if type(problem).__name__ == "SafetensorError" and "space" in str(problem).lower():
            raise OSError(28, str(problem)) from problem
        raise
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    sync(folder.parent)
    for older in states(out)[:-1]:
        shutil.rmtree(older, ignore_errors=True)
    return folder


def states(out: Path) -> list[Path]:
    """The folders of whole training states under `out`, oldest first."""
    return sorted(path for path in (out / FOLDER).glob("step-*") if path.suffix != ".part")


def load(out: Path, *, fingerprint: str) -> TrainingState | None:
    """The newest training state of this run, or None. Raises StateError when it is of another run."""
    folders = states(out)
    if not folders:
        return None
    newest = folders[-1]
    try:
        facts = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        tensors = load_file(newest / "tensors.safetensors")
    except (OSError, ValueError) as problem:
        raise StateError(
            f"The training state {newest} can't be read: {problem}. Delete it to start again."
        ) from problem
    if facts["format"] != FORMAT or facts["fingerprint"] != fingerprint:
        raise StateError(
            f"{out} holds the training state of a run with another model, data or configuration. "
            "Use another --out, or --fresh to drop that state and start again."
        )
    return TrainingState(Progress(**facts["progress"]), tensors, facts["numbers"])
