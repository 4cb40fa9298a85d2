"""The end of a run: its weights, with all that is known of where they come from, become a checkpoint under OUT."""

import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import peft
from safetensors import SafetensorError

from worker.dpo.data import moment
from worker.dpo.ground.disk import file_sha256, write_error
from worker.dpo.ground.events import Event
from worker.dpo.ground.memory import peak_memory
from worker.dpo.publish.folder import publish
from worker.dpo.run import evaluation, state
from worker.dpo.run.run import Run
from worker.dpo.run.setup import RunSetup

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")


def finish(run: Run, *, published_step: int, answers: Mapping[str, Any]) -> dict[str, Any]:
    """Publish the weights as they are, those of `published_step`; returns the facts of the `done` event.

    answers: what training changed in the model's answers. Raises DiskFull, NotFinite.
    """
    setup, out = run.setup, run.setup.request.out
    weights = run.weights()
    run.require_finite(weights)
    facts = _facts(run, published_step=published_step, answers=answers)
    if run.accelerator.is_main_process:
        try:
            files = publish(
                out,
                staging=out / state.FOLDER / "publish",
                policy=setup.policy,
                weights=weights,
                tokenizer=setup.tokenizer,
                facts=facts,
                margins=evaluation.margins_of_pairs(run),
            )
        except (OSError, SafetensorError) as problem:
            raise write_error(problem, out=out, step=run.progress.step) from problem
        setup.events.emit(
            Event.CHECKPOINT,
            facts["step"],
            kind="last" if published_step == run.progress.step else "best",
            path=str(out),
            files=files,
        )
    run.accelerator.wait_for_everyone()
    last = {name: value for name, value in run.metrics.items() if name != "epoch"}
    return {
        "path": str(out),
        "total_steps": setup.plan.total_steps,
        "seconds": round(run.seconds, 3),
        "shared_prefix": setup.scorer.shared,
        "fused_layers": setup.scorer.fused_layers,
        "compiled_layers": setup.scorer.compiled_layers,
        "dtype": setup.config.dtype,
        "threads": setup.threads.record,
        **last,
        **run.metrics_after,
    }


def _facts(run: Run, *, published_step: int, answers: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance of a checkpoint: what it was made from, how, with what, and how it did."""
    setup = run.setup
    return {
        "base_model": setup.request.model,
        "base_sha256": setup.weights,
        "parent_adapter": setup.config.adapter,
        "method": "lora" if isinstance(setup.policy, peft.PeftModel) else "full",
        "loss": setup.loss.loss_type,
        "beta": setup.loss.beta,
        "config": setup.config.as_dict(),
        "seed": setup.config.seed,
        "chat_template": setup.train.template,
        "template_time": None if (at := moment.fixed(setup.tokenizer)) is None else at.isoformat(),
        "max_length": setup.max_length,
        "data": _data_facts(setup),
        "step": published_step,
        "total_steps": setup.plan.total_steps,
        "shared_prefix": setup.scorer.shared,
        "fused_layers": setup.scorer.fused_layers,
        "compiled_layers": setup.scorer.compiled_layers,
        "number_type": setup.number_type.facts(),
        "threads": setup.threads.record,
        "token_budget": run.progress.token_budget or setup.memory.token_budget,
        "processes": run.accelerator.num_processes,
        "device": str(setup.scorer.device),
        "peak_memory_bytes": peak_memory(setup.scorer.device),
        "train_seconds": round(run.seconds, 1),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "metrics": {
            "before": run.metrics_before,
            "after": run.metrics_after,
            "train": run.metrics,
            "answers": dict(answers),
        },
    }


def _data_facts(setup: RunSetup) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for split, path, dataset in (
        ("train", setup.request.data, setup.train),
        ("eval", setup.request.eval_data, setup.evaluation),
    ):
        if dataset is not None and path is not None:
            facts |= {
                f"{split}_file": path.name,
                f"{split}_sha256": file_sha256(path),
                f"{split}_pairs": len(dataset.pairs),
                f"{split}_left_out": sum(problem.dropped for problem in dataset.problems),
            }
    return facts
