"""A run's training state: when it is saved, and a run that goes on from it."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from worker.dpo.data.answers import Answer
from worker.dpo.ground.disk import write_error
from worker.dpo.ground.events import Event
from worker.dpo.ground.processes import first_ones
from worker.dpo.run import state
from worker.dpo.run.optimizer import full, restore_weights
from worker.dpo.run.run import References, Run
from worker.dpo.run.setup import RunSetup
from worker.dpo.run.trackers import open_trackers

# Settings that don't change the weights that a run ends with, but for rounding.
WITHOUT_EFFECT = frozenset({
    "token_budget", "save_steps", "save_minutes", "report_to", "num_workers", "reference_cache",
    "sample_prompts", "sample_tokens", "publish", "device", "gradient_checkpointing", "head_chunk_mb",
    "compile", "threads",
})  # fmt: skip
AS_BEFORE = {"pair_order": "position"}  # what the versions did that had no such setting


def fingerprints(setup: RunSetup) -> tuple[str, ...]:
    """Hashes of all that decides a run's outcome: a training state is saved with the first, and goes on under any of them.

    An adapter that the run starts from is known by what it holds. Earlier versions knew it by its path, which is the second.
    """
    config = setup.config.as_dict()
    evaluated = setup.evaluation.sha256 if setup.evaluation else None
    forms = [config] if setup.adapter is None else [config | {"adapter": setup.adapter}, config]
    return tuple(
        fingerprint(form, setup.weights, setup.train.sha256, evaluated, setup.accelerator.num_processes)
        for form in forms
    )


def fingerprint(settings: Mapping[str, Any], weights: str, train: str, evaluation: str | None, processes: int) -> str:
    """SHA-256 of what decides a run's outcome: settings by name, hashes of the weights and of both splits, processes.

    The training states of released versions carry it: they are resumed only while it comes out the same. So a setting that
    they didn't know counts only where it isn't what they did.
    """
    deciding = {
        name: value
        for name, value in settings.items()
        if name not in WITHOUT_EFFECT and not (name in AS_BEFORE and value == AS_BEFORE[name])
    }
    facts = [deciding, weights, train, evaluation, processes]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def begin(setup: RunSetup, reference: References) -> Run:
    """The run at its start, or where its newest training state under OUT left it. Raises StateError, TrackerError."""
    out = setup.request.out
    if setup.request.fresh:
        if setup.accelerator.is_main_process:
            state.drop_all(out)
        setup.accelerator.wait_for_everyone()
    saved = _saved(setup)
    reports = setup.config.report_to if setup.accelerator.is_main_process else []
    start = 0 if saved is None else saved.progress.step
    run = Run(setup, reference, open_trackers(reports, out, config=setup.config.as_dict(), start_step=start))
    if saved is not None:
        _restore(run, saved)
    return run


def _saved(setup: RunSetup) -> state.TrainingState | None:
    """The newest training state of this run that is whole, or None. A collective operation. Raises StateError."""
    out = setup.request.out
    newest = state.Newest(None)
    if setup.accelerator.is_main_process:
        shapes = {name: tuple(weight.shape) for name, weight in setup.scorer.named_parameters() if weight.requires_grad}
        state.rename_first_best(out)
        newest = state.choose(out, fingerprints=fingerprints(setup), shapes=shapes)
    # One process looks and sets aside: the others must not find half of it done.
    newest = first_ones(setup.accelerator, newest)
    if newest.refusal is not None:
        raise state.StateError(newest.refusal)
    for remark in newest.remarks:
        setup.events.emit(Event.LOG, level="warning", message=remark)
    return None if newest.folder is None else state.load(newest.folder)


def _restore(run: Run, saved: state.TrainingState) -> None:
    tensors, numbers = saved.tensors, saved.numbers
    run.progress, run.best_sha256 = saved.progress, saved.best_sha256
    restore_weights(run.named, tensors, "weight/")
    run.optimizer.restore(tensors)
    if numbers["scaler"]:
        run.scaler.load_state_dict(numbers["scaler"])
    run.reward_mean.load_state_dict(run.progress.reward_mean)
    run.metrics_before, run.metrics_after, run.metrics = numbers["before"], numbers["after"], numbers["last"]
    run.answers_before = _answers(numbers.get("answers"))
    run.setup.threads.resume(numbers.get("threads"), run.progress.step)
    run.saved_step = run.started_step = run.progress.step
    run.setup.events.emit(Event.LOG, run.progress.step, message=f"Resumed after step {run.progress.step}.")


def _answers(kept: list[dict[str, Any]] | None) -> list[Answer] | None:
    """The greedy answers of before training; None in a state of a version that didn't keep them."""
    if kept is None:
        return None
    return [Answer(str(one["text"]), tuple(one["ids"]), bool(one["ended"])) for one in kept]


def save_if_due(run: Run) -> None:
    """Save the training state where `save_steps` or `save_minutes` asks for it."""
    steps, minutes = run.config.save_steps, run.config.save_minutes
    by_step = steps is not None and run.progress.step % steps == 0
    # One process's clock decides for all: saving sharded weights is collective.
    late = first_ones(run.accelerator, minutes > 0 and time.monotonic() - run.saved_at > 60 * minutes)
    if by_step or late:
        save(run)


def save(run: Run) -> None:
    """Write the training state, if steps were done since the last one.

    Raises DiskFull, leaving the one before whole, and NotFinite for weights that no run should go on from.
    """
    if run.saved_step != run.progress.step or run.progress.step == 0:
        _write(run)
    run.saved_step, run.saved_at = run.progress.step, time.monotonic()


def _write(run: Run) -> None:
    weights = run.weights()
    run.require_finite(weights)
    tensors = {f"weight/{name}": tensor for name, tensor in weights.items()}
    tensors |= {name: full(tensor) for name, tensor in run.optimizer.tensors().items()}
    progress = state.Progress(
        **{**vars(run.progress), "seconds": run.seconds, "reward_mean": run.reward_mean.state_dict()}
    )
    numbers = {
        "scaler": run.scaler.state_dict(),
        "before": run.metrics_before,
        "after": run.metrics_after,
        "last": run.metrics,
        "answers": None if run.answers_before is None else [asdict(answer) for answer in run.answers_before],
        "dtype": run.config.dtype,
        "pair_order": run.config.pair_order,
        "threads": run.setup.threads.record,
    }
    if run.accelerator.is_main_process:
        out = run.setup.request.out
        try:
            folder = state.save(
                out,
                progress=progress,
                fingerprint=fingerprints(run.setup)[0],
                tensors=tensors,
                numbers=numbers,
                best_sha256=run.best_sha256,
                warn=lambda text: run.setup.events.emit(Event.LOG, level="warning", message=text),
            )
        except OSError as problem:
            raise write_error(problem, out=out, step=progress.step) from problem
        run.setup.events.emit(Event.CHECKPOINT, progress.step, kind="state", path=str(folder))
    run.accelerator.wait_for_everyone()
