"""What a run keeps on disk while it trains: its resumable state, and the best weights so far."""

import errno
import shutil
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.dpo.ground.errors import DiskFull
from worker.dpo.run import state
from worker.dpo.run.optimizer import full, restore_weights

if TYPE_CHECKING:
    from worker.dpo.run.loop import Run

BEST = "best.safetensors"


def weights(run: "Run") -> dict[str, Tensor]:
    """The trainable weights by name, whole; a collective operation where they are sharded."""
    return {name: full(parameter) for name, parameter in run.named.items()}


def save(run: "Run") -> None:
    """Write the training state atomically. Raises DiskFull, leaving the state before it whole."""
    tensors = {f"weight/{name}": tensor for name, tensor in weights(run).items()}
    tensors |= {name: full(tensor) for name, tensor in run.optimizer.tensors().items()}
    kept = state.Progress(**{**vars(run.progress), "seconds": run.seconds, "reward_mean": run.reward_mean.state_dict()})
    numbers = {
        "scaler": run.scaler.state_dict(),
        "before": run.metrics_before,
        "after": run.metrics_after,
        "last": run.metrics,
    }
    if run.accelerator.is_main_process:
        try:
            folder = state.save(
                run.session.request.out,
                progress=kept,
                fingerprint=run.session.fingerprint,
                tensors=tensors,
                numbers=numbers,
            )
        except OSError as problem:
            raise disk_full(problem, run) from problem
        run.session.events.emit("checkpoint", kept.step, kind="state", path=str(folder))
    run.accelerator.wait_for_everyone()


def resume(run: "Run") -> None:
    """Go on from the newest training state under OUT, if there is one. Raises StateError."""
    out = run.session.request.out
    if run.session.request.fresh:
        if run.accelerator.is_main_process:
            shutil.rmtree(out / state.FOLDER, ignore_errors=True)
        run.accelerator.wait_for_everyone()
    found = state.load(out, fingerprint=run.session.fingerprint)
    if found is None:
        return
    run.progress, tensors, numbers = found
    restore_weights(run.named, tensors, "weight/")
    run.optimizer.restore(tensors)
    if numbers["scaler"]:
        run.scaler.load_state_dict(numbers["scaler"])
    run.reward_mean.load_state_dict(run.progress.reward_mean)
    run.metrics_before, run.metrics_after, run.metrics = numbers["before"], numbers["after"], numbers["last"]
    run.saved_step = run.started_step = run.progress.step
    run.session.events.emit("log", run.progress.step, message=f"Resumed after step {run.progress.step}.")


def keep_best(run: "Run", metrics: dict[str, float]) -> None:
    """Note whether the evaluation was the best yet, and keep its weights where they may be published."""
    name, progress = run.config.metric_for_best_model, run.progress
    if name not in metrics:
        raise ValueError(f"metric_for_best_model is {name!r}: there is {', '.join(metrics)}.")
    value = metrics[name]
    lower_is_better = "loss" in name or name == "eval_kl"
    best = progress.best_value
    if best is None or (value < best if lower_is_better else value > best):
        progress.best_value, progress.best_step, progress.evaluations_without_gain = value, progress.step, 0
        if publishes_best(run):
            _write_best(run)
    else:
        progress.evaluations_without_gain += 1


def publishes_best(run: "Run") -> bool:
    if run.session.evaluation is None or run.config.publish == "last":
        return False
    return run.config.publish == "best" or run.config.early_stopping_patience > 0


def _write_best(run: "Run") -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in weights(run).items()}
    if not run.accelerator.is_main_process:
        return
    folder = run.session.request.out / state.FOLDER
    part = folder / f"{BEST}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"step": str(run.progress.step)})
        state.sync(part)
        part.replace(folder / BEST)
    except OSError as problem:
        part.unlink(missing_ok=True)
        raise disk_full(problem, run) from problem


def load_best(run: "Run") -> None:
    """Put the best weights back into the model."""
    run.accelerator.wait_for_everyone()
    restore_weights(run.named, load_file(run.session.request.out / state.FOLDER / BEST))


def disk_full(problem: OSError, run: "Run") -> Exception:
    if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
        return problem
    return DiskFull(
        f"The disk of {run.session.request.out} is full, so step {run.progress.step} couldn't be saved. "
        "The state before it is whole: free some space and start the same command again."
    )
