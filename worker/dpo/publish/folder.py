"""A checkpoint's folder, which peft and transformers load as it is: complete, or not there at all."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from worker.dpo.ground.disk import sync
from worker.dpo.ground.errors import DiskFull
from worker.dpo.model.loading import save_weights
from worker.dpo.publish.card import FACTS, write_card


def publish(
    out: Path,
    *,
    staging: Path,
    policy: PreTrainedModel,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
) -> list[str]:
    """Write model or adapter, tokenizer, card, metrics and facts to `out`; returns the names of the files there.

    policy: the model, with its adapter if it has one. weights: the trained ones, named as in the scorer. facts: as
    `write_card` takes them, `metrics` among them. staging: a folder on the same disk in which everything is written
    first. `prefloop.json` is moved last and marks the folder as whole. Raises OSError.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_weights(policy, weights, staging)
    tokenizer.save_pretrained(staging)
    (staging / "metrics.json").write_text(json.dumps(facts["metrics"], indent=1))
    write_card(staging, facts)
    written = sorted(path for path in staging.rglob("*") if path.is_file())
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
    except OSError as problem:
        shutil.rmtree(part, ignore_errors=True)
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk of {out} is full: nothing was written. Free some space and start again."
            ) from problem
        raise
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
