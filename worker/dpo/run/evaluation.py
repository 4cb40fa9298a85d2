"""Scoring the evaluation split between steps, and keeping the weights that did best on it."""

import math

import torch
from safetensors.torch import load_file
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.disk import file_sha256, sync, write_error
from worker.dpo.ground.errors import NotFinite
from worker.dpo.ground.events import Event
from worker.dpo.ground.processes import first_ones
from worker.dpo.loss import metrics
from worker.dpo.loss.pair_losses import PairLosses, losses_of
from worker.dpo.model.scoring import score_pairs
from worker.dpo.run import state
from worker.dpo.run.optimizer import restore_weights
from worker.dpo.run.run import Run


def is_due(run: Run) -> bool:
    """Whether to evaluate after the step that was just done: every `eval_steps`, and after the last."""
    total = run.setup.plan.total_steps
    every = run.config.eval_steps or max(1, total // 5)
    return run.progress.step % every == 0 or run.progress.step == total


def evaluate(run: Run) -> None:
    """Score the evaluation split, emit the figures and keep the weights if they are the best so far.

    Raises NotFinite for a figure that isn't, once everybody has seen it.
    """
    setup, progress = run.setup, run.progress
    if setup.evaluation is None:
        return
    total = setup.plan.total_steps
    setup.events.emit(Event.STATE, progress.step, stage="evaluating", total_steps=total)
    figures = _figures(run, setup.evaluation.pairs)
    if progress.step == 0:
        run.metrics_before = figures
    run.metrics_after = figures
    run.trackers.log(figures, progress.step)
    setup.events.emit(Event.EVAL, progress.step, **figures)
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFinite(f"{name} became {value} in the evaluation after step {progress.step}. {run.advice}")
    _keep_best(run, figures)
    setup.events.emit(Event.STATE, progress.step, stage="training", total_steps=total)


def _figures(run: Run, pairs: list[TokenPair]) -> dict[str, float]:
    """The metrics of the weights as they are, on the evaluation pairs, whose margins are kept. A collective operation."""
    logps, losses = _score(run, pairs, run.reference.evaluation)
    run.margins = losses.rewards_chosen - losses.rewards_rejected
    return metrics.evaluation(losses, logps, run.reference.evaluation)


def _score(run: Run, pairs: list[TokenPair], reference: Tensor | None) -> tuple[Tensor, PairLosses]:
    """((2, pairs) log-probabilities, losses) of the weights as they are, without dropout. A collective operation."""
    setup = run.setup
    was_training = setup.policy.training
    setup.policy.eval()
    logps = score_pairs(
        setup.scorer, pairs, budget=run.progress.token_budget, accelerator=run.accelerator, stop=setup.stop
    )
    setup.policy.train(was_training)
    losses = losses_of(
        setup.loss,
        pairs,
        logps,
        reference,
        soft_labels=run.config.use_soft_labels,
        reward_mean=run.reward_mean.mean,
    )
    return logps, losses


def require_finite(run: Run) -> None:
    """Raise NotFinite unless the weights, and the losses that they give, are finite numbers. A collective operation.

    A step tells of its loss from before it; what the last one did shows only when its batch is scored once more.
    """
    run.require_finite(run.weights())
    places = run.setup.plan.batch(max(0, run.progress.step - 1))
    pairs = [run.setup.train.pairs[place] for place in places]
    reference = None if run.reference.train is None else run.reference.train[:, places]
    logps, losses = _score(run, pairs, reference)
    finite = logps.isfinite().all(0) & losses.loss.isfinite()
    if not finite.all():
        lines = ", ".join(str(pairs[place].line) for place in torch.nonzero(~finite).flatten()[:8].tolist())
        raise NotFinite(
            f"After step {run.progress.step} the loss isn't a finite number (data lines {lines}). "
            f"Nothing was published. {run.advice}"
        )


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
    weights = run.weights()
    run.require_finite(weights)
    if not run.accelerator.is_main_process:
        return
    out = run.setup.request.out
    path = state.best_file(out, run.progress.step)
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        state.write_tensors(weights, part)
        run.best_sha256 = file_sha256(part)
        part.replace(path)
        sync(path.parent)
    except OSError as problem:
        part.unlink(missing_ok=True)
        raise write_error(problem, out=out, step=run.progress.step) from problem


def settle_weights(run: Run) -> int:
    """Put the weights that will be published into the model, the last or the best; returns the step that they are of.

    `metrics_after` and `margins` are theirs from then on. A collective operation. Raises StateError, NotFinite.
    """
    step = run.progress.step
    if publishes_best(run) and run.progress.best_step != step:
        step = run.progress.best_step
        _load_best(run)
    elif run.margins is not None:
        return step
    if run.setup.evaluation is not None:
        run.metrics_after = _figures(run, run.setup.evaluation.pairs)
    return step


def margins_of_pairs(run: Run) -> dict[str, list[float]] | None:
    """Each evaluation pair's line of the data and reward margin in nats, by the last weights that were scored. None without
    such pairs."""
    if run.setup.evaluation is None or run.margins is None:
        return None
    lines = [pair.line for pair in run.setup.evaluation.pairs]
    return {"lines": lines, "margins": [round(margin, 6) for margin in run.margins.double().tolist()]}


def _load_best(run: Run) -> None:
    """Put the best weights back into the model. A collective operation. Raises StateError, NotFinite."""
    problem = _best_problem(run) if run.accelerator.is_main_process else None
    if (problem := first_ones(run.accelerator, problem)) is not None:
        raise state.StateError(problem)
    restore_weights(run.named, load_file(state.best_file(run.setup.request.out, run.progress.best_step)))
    require_finite(run)


def _best_problem(run: Run) -> str | None:
    """Why the best weights can't be published, or None."""
    step = run.progress.best_step
    path = state.best_file(run.setup.request.out, step)
    if not path.exists():
        return f"The weights of the best step, {step}, weren't kept: {path} isn't there. Use publish=last, or --fresh."
    if run.best_sha256 is not None and file_sha256(path) != run.best_sha256:
        return (
            f"The weights of the best step, {step}, are damaged: {path} isn't what was written. Start the same command "
            "again: it goes on from a training state of before."
        )
    return None
