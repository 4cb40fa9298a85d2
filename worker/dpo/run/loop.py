"""A training run from top to bottom: load, score the reference, train, evaluate, publish."""

import time
from typing import Any

from accelerate import Accelerator

from worker.dpo.ground.errors import Terminated
from worker.dpo.ground.events import Event, EventWriter
from worker.dpo.ground.memory import give_back_freed_memory
from worker.dpo.ground.stopping import Stop
from worker.dpo.publish.folder import require_own_folder
from worker.dpo.run import evaluation, resume
from worker.dpo.run.finish import finish
from worker.dpo.run.reference import references
from worker.dpo.run.run import Run
from worker.dpo.run.samples import after_training, before_training
from worker.dpo.run.setup import RunRequest, prepare
from worker.dpo.run.step import optimizer_step
from worker.dpo.run.together import within_memory


def train(request: RunRequest, events: EventWriter, stop: Stop, accelerator: Accelerator) -> dict[str, Any]:
    """Run to the end; returns the facts of the `done` event. Raises RunError and its kinds."""
    require_own_folder(request.out, model=request.model, adapter=request.config.adapter)
    setup = prepare(request, events, stop, accelerator)
    reference = references(setup)
    give_back_freed_memory()
    run = resume.begin(setup, reference)
    total = setup.plan.total_steps
    succeeded = False
    try:
        if run.progress.step == 0:
            evaluation.evaluate(run)
            before_training(run)
        events.emit(Event.STATE, run.progress.step, stage="training", total_steps=total)
        while run.progress.step < total and not evaluation.out_of_patience(run):
            _report(run, _step(run))
            if evaluation.is_due(run):
                evaluation.evaluate(run)
            resume.save_if_due(run)
            run.check_stop()
        evaluation.require_finite(run)
        resume.save(run)
        published_step = evaluation.settle_weights(run)
        answers = after_training(run)
        events.emit(Event.STATE, run.progress.step, stage="exporting", total_steps=total)
        facts = finish(run, published_step=published_step, answers=answers)
        succeeded = True
        return facts
    except Terminated:
        resume.save(run)
        where = f"step {run.progress.step} of {total}"
        raise Terminated(
            f"Stopped at {where}; the training state is kept, and the same command goes on from it."
        ) from None
    finally:
        run.trackers.close(succeeded)
        setup.threads.release()


def _step(run: Run) -> dict[str, float]:
    """One optimizer step, by as many threads as are best now."""
    setup, threads = run.setup, run.setup.threads
    step, before = run.progress.step + 1, threads.count
    count = threads.before("training", step)
    if count is not None and before is not None and count != before:
        setup.events.emit(
            Event.LOG, step, message=f"{count} threads from step {step} on, instead of {before}.", threads=count
        )
    metrics = within_memory(run, optimizer_step)
    threads.after(sum(setup.packing.alone[place] for place in setup.plan.batch(step - 1)))
    return metrics


def _report(run: Run, metrics: dict[str, float]) -> None:
    """Give a step's metrics to the trackers and the events."""
    step, total = run.progress.step, run.setup.plan.total_steps
    run.metrics = metrics | {"epoch": run.setup.plan.epoch_of(step)}
    run.trackers.log(run.metrics, step)
    elapsed = time.monotonic() - run.started
    run.setup.events.emit(
        Event.STEP,
        step,
        **run.metrics,
        total_steps=total,
        eta_seconds=round(elapsed / (step - run.started_step) * (total - step), 1),
        seconds=round(run.seconds, 3),
        pairs=run.progress.pairs_seen,
    )
