"""Training states: everything that a killed run needs to go on as if nothing had happened.

Each is a folder `OUT/state/step-N` with tensors in safetensors, the rest in JSON, and `SHA256SUMS` over both; nothing is
pickled. We write it beside its final name, flush it to the disk and rename it, so it is whole or absent. Two are kept:
should the disk damage the newest, the run goes on from the one before. States of the first release have no sums.
The random generators need no place in it: each step seeds them anew, from the run's seed and the step's number.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.dpo.ground.disk import file_sha256, full_disk, sync
from worker.dpo.ground.errors import BadSetting

FOLDER = "state"
FORMAT = 1
KEPT = 2
SUMS, FACTS, TENSORS = "SHA256SUMS", "state.json", "tensors.safetensors"
ASIDE = "damaged-"
BEGUN = "begun"
# What the tensors of a state are called: each of these, then the weight's name.
KINDS = ("weight", "master", "adam/step", "adam/exp_avg", "adam/exp_avg_sq")
# What reading a damaged state may raise.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError)
FIRST_BEST = "best.safetensors"  # where the first release kept the best weights, their step in its metadata


class StateError(BadSetting):
    """A training state that this run can't go on from. The text says what to do."""


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
    """What `save` keeps of a run: where it stands, its weights and moments by name, and its scalars (JSON).

    best_sha256: hash of the best weights' file as it was when the state was saved; None where there was none.
    """

    progress: Progress
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    best_sha256: str | None = None


@dataclass(frozen=True)
class Newest:
    """Which training state to go on from. folder: None at a run's start. remarks: what was set aside, and why.

    refusal: why there is none, although OUT holds a whole one of another run.
    """

    folder: Path | None
    remarks: tuple[str, ...] = ()
    refusal: str | None = None


def best_file(out: Path, step: int) -> Path:
    """Where the weights of evaluation step `step` are kept while they are the best."""
    return out / FOLDER / f"best-{step:08d}.safetensors"


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors and put them on the disk. Raises OSError."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except Exception as problem:
        if (full := full_disk(problem)) is not None:
            raise full from problem
        raise
    sync(path)


def save(
    out: Path,
    *,
    progress: Progress,
    fingerprint: str,
    tensors: dict[str, Tensor],
    numbers: dict[str, Any],
    best_sha256: str | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write the training state of `progress.step`, then drop all but the newest two. best_sha256: as in TrainingState.

    Where the disk is full and two older ones are there, the older of these makes room. Raises OSError, and the newest
    state of before stays whole.
    """
    facts = {"format": FORMAT, "fingerprint": fingerprint, "progress": vars(progress), "numbers": numbers}
    try:
        folder = _write(out, progress, facts, tensors, best_sha256)
    except OSError as problem:
        older = [path for path in states(out) if path != _folder(out, progress.step)]
        if full_disk(problem) is None or len(older) < KEPT:
            raise
        warn(f"The disk of {out} is full: the training state {older[0].name} makes room for a new one.")
        _drop(older[0])
        folder = _write(out, progress, facts, tensors, best_sha256)
    for path in states(out)[:-KEPT]:
        _drop(path)
    _drop_unused_best(out, progress.best_step)
    return folder


def _folder(out: Path, step: int) -> Path:
    return out / FOLDER / f"step-{step:08d}"


def _write(
    out: Path, progress: Progress, facts: dict[str, Any], tensors: dict[str, Tensor], best_sha256: str | None
) -> Path:
    folder = _folder(out, progress.step)
    staging = folder.with_suffix(".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        write_tensors(tensors, staging / TENSORS)
        (staging / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        sums = {name: file_sha256(staging / name) for name in (TENSORS, FACTS)}
        if best_sha256 is not None:
            sums[f"../{best_file(out, progress.best_step).name}"] = best_sha256
        (staging / SUMS).write_text("".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()), encoding="utf-8")
        for path in (staging / FACTS, staging / SUMS, staging):
            sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync(folder.parent)
    return folder


def _drop(folder: Path) -> None:
    # Renamed first: a state that is deleted only in part must not look like one.
    part = folder.with_suffix(".part")
    with suppress(OSError):
        shutil.rmtree(part, ignore_errors=True)
        folder.rename(part)
    shutil.rmtree(part, ignore_errors=True)


def _drop_unused_best(out: Path, best_step: int) -> None:
    """Delete best weights that neither the run nor one of its states is about."""
    used = {best_file(out, best_step)}
    for folder in states(out):
        with suppress(OSError, ValueError, KeyError, TypeError):
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            used.add(best_file(out, facts["progress"]["best_step"]))
    for path in (out / FOLDER).glob("best-*.safetensors"):
        if path not in used:
            path.unlink(missing_ok=True)


def states(out: Path) -> list[Path]:
    """The folders of whole training states under `out`, oldest first."""
    return sorted(path for path in (out / FOLDER).glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def drop_all(out: Path) -> None:
    """Delete what `out` holds for resuming, but for when the run began."""
    for path in (out / FOLDER).glob("*"):
        if path.name != BEGUN:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def kept_dtype(out: Path) -> str | None:
    """The number type of the newest training state under `out`, if any; the first releases noted none and used float32."""
    numbers = newest_numbers(out)
    return None if numbers is None else str(numbers.get("dtype", "float32"))


def newest_numbers(out: Path) -> dict[str, Any] | None:
    """What the newest training state under `out` notes beside its progress; None where there is none."""
    for folder in reversed(states(out)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            return dict(json.loads((folder / FACTS).read_text(encoding="utf-8"))["numbers"])
    return None


def choose(out: Path, *, fingerprints: Collection[str], shapes: Mapping[str, tuple[int, ...]]) -> Newest:
    """The newest whole training state of this run; newer ones that are damaged are set aside, as `damaged-step-N`.

    shapes: of the trained weights, by name. Where there is none of this run but a whole one of another, nothing is
    moved.
    """
    problems: dict[Path, str] = {}
    another, chosen = False, None
    for folder in reversed(states(out)):
        try:
            facts = _verified(folder)
            if facts["format"] == FORMAT and facts["fingerprint"] in fingerprints:
                _require_tensors(folder / TENSORS, shapes)
                chosen = folder
                break
        except UNREADABLE as problem:
            problems[folder] = f"is damaged: {problem}"
            continue
        another = True
        problems[folder] = "is of a run with another model, data or configuration"
    if chosen is None and another:
        return Newest(
            None,
            refusal=f"{out} holds the training state of a run with another model, data or configuration. "
            "Use another --out, or --fresh to drop that state and start again.",
        )
    then = f"The run goes on from {chosen.name}." if chosen else "There is no other: the run starts from the beginning."
    remarks = [
        f"The training state {_set_aside(path)} {problem.rstrip('.')}. {then}" for path, problem in problems.items()
    ]
    return Newest(chosen, tuple(remarks))


def _set_aside(folder: Path) -> Path:
    """Rename a state so that it's no longer looked at; returns where it is now."""
    aside = folder.with_name(ASIDE + folder.name)
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    except OSError:
        return folder
    return aside


def _verified(folder: Path) -> dict[str, Any]:
    """What `state.json` says, once all files are as they were written. Raises UNREADABLE."""
    if (folder / SUMS).exists():
        sums = _sums(folder)
        if not sums.keys() >= {FACTS, TENSORS}:
            raise ValueError(f"{SUMS} is torn")
        for name, sha256 in sums.items():
            if file_sha256(folder / name) != sha256:
                raise ValueError(f"the SHA-256 of {name} isn't the one that was written")
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    Progress(**facts["progress"])
    if not facts["numbers"].keys() >= {"scaler", "before", "after", "last"}:
        raise ValueError(f"{FACTS} is incomplete")
    return facts


def _require_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the file has all weights in their shapes, and nothing that a state doesn't hold."""
    known = {f"{kind}/{name}" for kind in KINDS for name in shapes}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name in names - known:
            raise ValueError(f"{path.name} holds {name}, which no state has")
        for name, shape in shapes.items():
            if f"weight/{name}" not in names or tuple(file.get_slice(f"weight/{name}").get_shape()) != shape:
                raise ValueError(f"{path.name} lacks the weights of {name}")


def _sums(folder: Path) -> dict[str, str]:
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: sha256 for sha256, name in (line.split("  ", 1) for line in lines)}


def load(folder: Path) -> TrainingState:
    """The training state in `folder`, as `choose` gave it. Raises UNREADABLE."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    progress = Progress(**facts["progress"])
    best = f"../{best_file(folder.parent.parent, progress.best_step).name}"
    sums = _sums(folder) if (folder / SUMS).exists() else {}
    return TrainingState(progress, load_file(folder / TENSORS), facts["numbers"], sums.get(best))


def rename_first_best(out: Path) -> None:
    """Give the best weights that the first release kept the name that they have now."""
    old = out / FOLDER / FIRST_BEST
    with suppress(OSError, SafetensorError, KeyError, ValueError, TypeError):
        with safe_open(old, framework="pt") as file:
            step = int(file.metadata()["step"])
        if not best_file(out, step).exists():
            old.rename(best_file(out, step))
