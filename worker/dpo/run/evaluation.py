"""Scoring the evaluation split between steps, and keeping the weights that did best on it."""

from safetensors.torch import load_file, save_file

from worker.dpo.ground.disk import sync, write_error
from worker.dpo.ground.events import Event
from worker.dpo.loss import metrics
from worker.dpo.loss.pair_losses import losses_of
from worker.dpo.model.scoring import score_pairs
from worker.dpo.run import state
from worker.dpo.run.optimizer import restore_weights
from worker.dpo.run.run import Run

BEST = "best.safetensors"


def is_due(run: Run) -> bool:
    """Whether to evaluate after the step that was just done: every `eval_steps`, and after the last."""
    total = run.setup.plan.total_steps
    every = run.config.eval_steps or max(1, total // 5)
    return run.progress.step % every == 0 or run.progress.step == total


def evaluate(run: Run) -> None:
    """Score the evaluation split, emit the figures and keep the weights if they are the best so far."""
    setup, progress = run.setup, run.progress
    if setup.evaluation is None:
        return
    total = setup.plan.total_steps
    setup.events.emit(Event.STATE, progress.step, stage="evaluating", total_steps=total)
    was_training = setup.policy.training
    setup.policy.eval()
    pairs = setup.evaluation.pairs
    logps = score_pairs(setup.scorer, pairs, budget=progress.token_budget, accelerator=run.accelerator, stop=setup.stop)
    setup.policy.train(was_training)
    losses = losses_of(
        setup.loss,
        pairs,
        logps,
        run.reference.evaluation,
        soft_labels=run.config.use_soft_labels,
        reward_mean=run.reward_mean.mean,
    )
    figures = metrics.evaluation(losses, logps, run.reference.evaluation)
    if progress.step == 0:
        run.metrics_before = figures
    run.metrics_after = figures
    run.trackers.log(figures, progress.step)
    setup.events.emit(Event.EVAL, progress.step, **figures)
    _keep_best(run, figures)
    setup.events.emit(Event.STATE, progress.step, stage="training", total_steps=total)


def out_of_patience(run: Run) -> bool:
    """Whether `early_stopping_patience` evaluations in a row brought nothing better."""
    patience = run.config.early_stopping_patience
    return patience > 0 and run.progress.evaluations_without_gain >= patience


def _keep_best(run: Run, figures: dict[str, float]) -> None:
    """Note whether the evaluation was the best yet, and keep its weights where they may be published."""
    name, progress = run.config.metric_for_best_model, run.progress
    if name not in figures:
        raise ValueError(f"metric_for_best_model is {name!r}: there is {', '.join(figures)}.")
    value = figures[name]
    lower_is_better = "loss" in name or name == "eval_kl"
    best = progress.best_value
    if best is None or (value < best if lower_is_better else value > best):
        progress.best_value, progress.best_step, progress.evaluations_without_gain = value, progress.step, 0
        if publishes_best(run):
            _write_best(run)
    else:
        progress.evaluations_without_gain += 1


def publishes_best(run: Run) -> bool:
    """Whether the run's checkpoint is the best weights, as `publish` says, and not the last."""
    if run.setup.evaluation is None or run.config.publish == "last":
        return False
    return run.config.publish == "best" or run.config.early_stopping_patience > 0


def _write_best(run: Run) -> None:
    tensors = {name: tensor.cpu().contiguous() for name, tensor in run.weights().items()}
    if not run.accelerator.is_main_process:
        return
    out = run.setup.request.out
    folder = out / state.FOLDER
    part = folder / f"{BEST}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"step": str(run.progress.step)})
        sync(part)
        part.replace(folder / BEST)
    except OSError as problem:
        part.unlink(missing_ok=True)
        raise write_error(problem, out=out, step=run.progress.step) from problem


def load_best(run: Run) -> None:
    """Put the best weights back into the model. A collective operation."""
    run.accelerator.wait_for_everyone()
    restore_weights(run.named, load_file(run.setup.request.out / state.FOLDER / BEST))
