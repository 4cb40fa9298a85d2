"""Publishing a run: a folder that peft and transformers load as it is, complete or not there at all."""

import hashlib
import json
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft
from torch import Tensor

from worker.dpo.ground.memory import peak_memory
from worker.dpo.model.loading import save_weights
from worker.dpo.publish.card import write_card
from worker.dpo.run import resume, state

if TYPE_CHECKING:
    from worker.dpo.run.loop import Run
    from worker.dpo.run.setup import Session

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")
FACTS = "prefloop.json"


def publish(run: "Run") -> dict[str, Any]:
    """Write the model, its tokenizer, card and facts under OUT; returns the facts of the `done` event.

    Everything is written into `OUT/state/publish` and moved; `prefloop.json` comes last and marks the folder as whole.
    Raises DiskFull.
    """
    session, out = run.session, run.session.request.out
    best = resume.publishes_best(run) and run.progress.best_step != run.progress.step
    if best:
        resume.load_best(run)
    tensors = resume.weights(run)
    facts = run_facts(run, published_step=run.progress.best_step if best else run.progress.step)
    if run.accelerator.is_main_process:
        try:
            _write(run, tensors, facts, out)
        except OSError as problem:
            raise resume.disk_full(problem, run) from problem
        session.events.emit(
            "checkpoint", facts["step"], kind="best" if best else "last", path=str(out), files=_files(out)
        )
    run.accelerator.wait_for_everyone()
    metrics = {name: value for name, value in run.metrics.items() if name != "epoch"}
    return {
        "path": str(out),
        "total_steps": session.plan.total_steps,
        "seconds": round(run.seconds, 3),
        **metrics,
        **run.metrics_after,
    }


def _write(run: "Run", tensors: dict[str, Tensor], facts: dict[str, Any], out: Path) -> None:
    staging = out / state.FOLDER / "publish"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_weights(run.session.policy, tensors, staging)
    run.session.tokenizer.save_pretrained(staging)
    (staging / "metrics.json").write_text(
        json.dumps({"before": run.metrics_before, "after": run.metrics_after, "train": run.metrics}, indent=1)
    )
    write_card(staging, facts)
    found = sorted(path for path in staging.rglob("*") if path.is_file())
    # The facts come last: a folder with them is whole.
    for path in sorted(found, key=lambda path: path.name == FACTS):
        target = out / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        state.sync(path)
        os.replace(path, target)
    shutil.rmtree(staging)


def _files(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.is_file())


def run_facts(run: "Run", *, published_step: int) -> dict[str, Any]:
    """The provenance of a checkpoint: what it was made from, how, with what, and how it did."""
    session = run.session
    return {
        "base_model": session.request.model,
        "base_sha256": session.weights,
        "parent_adapter": session.config.adapter,
        "method": "lora" if isinstance(session.policy, peft.PeftModel) else "full",
        "loss": session.loss.loss_type,
        "beta": session.loss.beta,
        "config": session.config.as_dict(),
        "seed": session.config.seed,
        "chat_template": session.train.template,
        "max_length": session.max_length,
        "data": _data_facts(session),
        "step": published_step,
        "total_steps": session.plan.total_steps,
        "shared_prefix": session.scorer.shared,
        "processes": run.accelerator.num_processes,
        "device": str(session.scorer.device),
        "peak_memory_bytes": peak_memory(session.scorer.device),
        "train_seconds": round(run.seconds, 1),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "metrics": {"before": run.metrics_before, "after": run.metrics_after, "train": run.metrics},
    }


def _data_facts(session: "Session") -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for split, path, dataset in (
        ("train", session.request.data, session.train),
        ("eval", session.request.eval_data, session.evaluation),
    ):
        if dataset is not None and path is not None:
            facts |= {
                f"{split}_file": path.name,
                f"{split}_sha256": _sha256(path),
                f"{split}_pairs": len(dataset.pairs),
                f"{split}_left_out": sum(problem.dropped for problem in dataset.problems),
            }
    return facts


def _sha256(path: Path) -> str:

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
