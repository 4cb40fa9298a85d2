"""A checkpoint's folder, which peft and transformers load as it is: complete, or not there at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from worker.dpo.ground.disk import full_disk, sync
from worker.dpo.ground.errors import BadSetting, DiskFull
from worker.dpo.model.loading import save_weights
from worker.dpo.publish.card import FACTS, write_card

MARGINS = "eval_margins.json"


class FolderInUse(BadSetting):
    """A result's folder that holds, or lies in, what the run is made from. The text says what to choose."""


def require_own_folder(out: Path, *, model: str, adapter: str | None) -> None:
    """Raise FolderInUse where writing to `out` could change the model's folder or the adapter that training starts from.

    Refused: the model's folder, one in it, one that it lies in, and one that its files are links into; the adapter's
    folder. However they are named: links are followed, and folders compared as the system knows them.
    """
    if out.exists() and not out.is_dir():
        raise FolderInUse(f"--out {out} is a file: name a folder for the result.")
    base = Path(model)
    if base.is_dir():
        files = [file.resolve() for file in base.iterdir()]
        if _is_in(out, base) or _is_in(base, out) or any(_is_in(file, out) for file in files):
            raise FolderInUse(
                f"--out {out} is the folder of the model {model}, lies in it or holds it: the run would write over the "
                "model. Name a folder apart from it."
            )
    if adapter is not None and out.exists() and Path(adapter).exists() and out.samefile(adapter):
        raise FolderInUse(f"--out {out} is the adapter that the run starts from: name another folder for the result.")


def _is_in(place: Path, folder: Path) -> bool:
    """Whether a place, which needn't be there yet, is the folder or somewhere in it."""
    real = place.resolve()
    return folder.exists() and any(part.exists() and part.samefile(folder) for part in (real, *real.parents))


def publish(
    out: Path,
    *,
    staging: Path,
    policy: PreTrainedModel,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
    margins: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write model or adapter, tokenizer, card, metrics and facts to `out`; returns the names of the files there.

    policy: the model, with its adapter if it has one. weights: the trained ones, named as in the scorer. facts: as
    `write_card` takes them, `metrics` among them. margins: of each evaluation pair, if there are any. staging: a
    folder on the same disk in which everything is written first. `prefloop.json` marks the folder as whole: an older
    one goes before the first file is replaced, and the new one comes last. Raises OSError.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_weights(policy, weights, staging)
    tokenizer.save_pretrained(staging)
    (staging / "metrics.json").write_text(json.dumps(facts["metrics"], indent=1))
    if margins is not None:
        (staging / MARGINS).write_text(json.dumps(margins))
    else:
        (out / MARGINS).unlink(missing_ok=True)
    write_card(staging, facts)
    written = sorted(path for path in staging.rglob("*") if path.is_file())
    (out / FACTS).unlink(missing_ok=True)
    sync(out)
    for path in sorted(written, key=lambda path: path.name == FACTS):
        target = out / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(path)
        os.replace(path, target)
    shutil.rmtree(staging)
    return sorted(path.name for path in out.iterdir() if path.is_file())


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` to write into; it becomes `out` when the block ends, and goes when the block fails.

    out: a new or an empty folder. What a killed process left in the staging folder goes as well. Raises DiskFull.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent / f".{out.name}.partial"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir()
        yield part
        for path in part.rglob("*"):
            sync(path)
        part.replace(out)
        sync(out.parent)
    except Exception as problem:
        shutil.rmtree(part, ignore_errors=True)
        if full_disk(problem) is not None:
            raise DiskFull(
                f"The disk of {out} is full: nothing was written. Free some space and start again."
            ) from problem
        raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
