"""A training run from top to bottom: load, score the reference, train, evaluate, publish."""

import gc
import math
import time
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.errors import NotFinite, OutOfMemory, Terminated
from worker.dpo.ground.events import EventWriter
from worker.dpo.ground.memory import give_back_freed_memory, is_out_of_memory, resident_memory
from worker.dpo.ground.stopping import Stop
from worker.dpo.loss import pair_losses
from worker.dpo.loss.metrics import evaluation, means, totals
from worker.dpo.loss.pair_losses import losses_of
from worker.dpo.model.scoring import score_pairs
from worker.dpo.publish.folder import publish
from worker.dpo.rows.plan import micro_batches
from worker.dpo.run import resume, state
from worker.dpo.run.memory_plan import set_checkpointing
from worker.dpo.run.optimizer import Optimizer, full, learning_rate
from worker.dpo.run.reference import references
from worker.dpo.run.samples import emit_samples
from worker.dpo.run.setup import RunRequest, Session, open_session
from worker.dpo.run.trackers import Trackers, open_trackers


def train(request: RunRequest, events: EventWriter, stop: Stop, accelerator: Accelerator) -> dict:
    """Run to the end; returns the facts of the `done` event. Raises RunError and the loaders' errors."""
    session = open_session(request, events, stop, accelerator)
    session.reference, session.eval_reference = references(session)
    give_back_freed_memory()
    run = Run(session)
    resume.resume(run)
    reports = session.config.report_to if accelerator.is_main_process else []
    run.trackers = open_trackers(reports, request.out, config=session.config.as_dict(), start_step=run.progress.step)
    succeeded = False
    try:
        facts = _loop(run)
        succeeded = True
        return facts
    except Terminated:
        run.save()
        where = f"{run.progress.step} of {session.plan.total_steps}"
        raise Terminated(f"Stopped at step {where}; the state is kept, and the same command goes on from it.") from None
    finally:
        run.trackers.close(succeeded)


def _loop(run: "Run") -> dict:
    session, progress, total = run.session, run.progress, run.session.plan.total_steps
    if progress.step == 0:
        run.evaluate()
        emit_samples(session, step=0, phase="before")
    session.events.emit("state", progress.step, stage="training", total_steps=total)
    while progress.step < total and not run.out_of_patience:
        run.step()
        if progress.step % run.eval_every == 0 or progress.step == total:
            run.evaluate()
        run.save_if_due()
        run.check_stop()
    run.save()
    emit_samples(session, step=progress.step, phase="after")
    session.events.emit("state", progress.step, stage="exporting", total_steps=total)
    return publish(run)


class AllOutOfMemory(MemoryError):
    """Memory ran out in one process at least, and all of them know it."""


class Run:
    """The moving parts of a run: weights, optimizer, where it stands."""

    def __init__(self, session: Session) -> None:
        self.session, self.config = session, session.config
        self.trackers = Trackers([])
        self.accelerator = session.accelerator
        set_checkpointing(session.scorer, session.memory.checkpointing)
        session.wrap()
        self.named = session.trainable()
        self.optimizer = Optimizer(self.named, self.config)
        halves = self.config.mixed_precision == "fp16" or self.config.dtype == "float16"
        self.scaler = torch.amp.GradScaler(session.scorer.device.type, enabled=halves)
        self.progress = state.Progress(token_budget=session.memory.token_budget)
        self.reward_mean = pair_losses.RewardMean()
        self.eval_every = self.config.eval_steps or max(1, session.plan.total_steps // 5)
        self.saved_step, self.saved_at = 0, time.monotonic()
        self.started, self.started_step = time.monotonic(), 0
        self.metrics: dict[str, float] = {}
        self.metrics_before: dict[str, float] = {}
        self.metrics_after: dict[str, float] = {}

    # One optimizer step

    def step(self) -> None:
        """One optimizer step over the plan's next batch, in as many micro-batches as the budget asks for."""
        while True:
            try:
                sums = self._accumulate(self.session.plan.batch(self.progress.step))
                break
            except Exception as problem:
                if not is_out_of_memory(problem):
                    raise
                if self.accelerator.num_processes > 1 and not isinstance(problem, AllOutOfMemory):
                    # The others are in the middle of something that takes all processes: no way back but a new start.
                    raise self._too_much() from problem
                self._shrink(problem)
        rate = learning_rate(self.config, self.progress.step, self.session.plan.total_steps)
        norm = self._update(rate)
        self._give_back_above_estimate()
        self.progress.step += 1
        self.progress.pairs_seen += int(sums["pairs"])
        self._report(means(sums) | {"grad_norm": norm, "learning_rate": rate})

    def _give_back_above_estimate(self) -> None:
        """Return freed memory to the system once the process holds more than it was estimated to need."""
        # Blocks of many sizes leave holes between them, more with every step.
        if self.session.scorer.device.type == "cpu" and resident_memory() > self.session.memory.peak:
            give_back_freed_memory()

    def _accumulate(self, batch: list[int]) -> dict[str, float]:
        """Gradients of a batch: the sum of the pairs' losses over the number of pairs in the whole batch."""
        session, processes = self.session, self.accelerator.num_processes
        self.optimizer.zero_grad()
        self._seed()
        session.wrapped.train()
        dealt = micro_batches(batch, session.packing, budget=self.progress.token_budget, processes=processes)
        mine = dealt[self.accelerator.process_index]
        sums: dict[str, float] = {}
        rewards: list[Tensor] = []
        ran_out: BaseException | None = None
        for number, indices in enumerate(mine):
            last = number == len(mine) - 1
            if processes == 1:
                session.stop.check()
            with nullcontext() if last else self.accelerator.no_sync(session.wrapped):
                try:
                    if ran_out is None:
                        loss, found, logps = self._forward(indices, batch)
                        if not last:
                            self.scaler.scale(loss).backward()
                except Exception as problem:
                    if not (self._is_replicated and is_out_of_memory(problem)):
                        raise
                    ran_out = problem.with_traceback(None)
                if last:
                    # Gradients are first exchanged in the last backward: until here all can still turn back together.
                    self._turn_back_together(ran_out)
                    self.scaler.scale(loss).backward()
            if indices and ran_out is None:
                rewards += [found.rewards_chosen, found.rewards_rejected]
                for name, value in totals(found, logps).items():
                    sums[name] = sums.get(name, 0.0) + value
        if session.loss.uses_reward_mean:
            self.reward_mean.update(self._gathered(rewards))
        return self._summed(sums)

    def _forward(self, indices: list[int], batch: list[int]) -> tuple[Tensor, pair_losses.PairLosses, Tensor]:
        """(share of the batch's loss, losses by pair, (2, pairs) log-probabilities) of a micro-batch."""
        # An empty micro-batch only keeps the processes in step: any pair, counted as nothing.
        places = indices or batch[:1]
        pairs = [self.session.train.pairs[index] for index in places]
        logps = self.session.wrapped(self.session.scorer.rows(pairs))
        found = self._losses(pairs, places, logps)
        # DDP averages over processes.
        loss = found.loss.sum() * (self.accelerator.num_processes / len(batch) if indices else 0.0)
        self._require_finite(loss, pairs)
        return loss, found, logps

    @property
    def _is_replicated(self) -> bool:
        """Whether there are several processes with whole weights, which meet once a step."""
        return self.accelerator.num_processes > 1 and not self.session.is_sharded

    def _turn_back_together(self, ran_out: BaseException | None) -> None:
        """Raise AllOutOfMemory in every process when memory ran out in any."""
        if not self._is_replicated:
            return
        count = torch.tensor(float(ran_out is not None), device=self.accelerator.device)
        if self.accelerator.reduce(count, reduction="sum").item():
            # DDP is prepared for a backward that will not come, and would exchange gradients in the next one that does.
            self.session.wrapped.reducer._reset_state()  # type: ignore[union-attr, operator]
            raise AllOutOfMemory(str(ran_out or "another process ran out of memory"))

    def _losses(self, pairs: list[TokenPair], indices: list[int], logps: Tensor) -> pair_losses.PairLosses:
        reference = None if self.session.reference is None else self.session.reference[:, indices]
        return losses_of(
            self.session.loss,
            pairs,
            logps,
            reference,
            soft_labels=self.config.use_soft_labels,
            reward_mean=self.reward_mean.mean,
        )

    def _seed(self) -> None:
        # Dropout is a function of seed, step and process: nothing that ran before can shift it.
        steps = self.session.plan.total_steps + 1
        torch.manual_seed(
            (self.config.seed * steps + self.progress.step) * self.accelerator.num_processes
            + self.accelerator.process_index
        )

    def _require_finite(self, loss: Tensor, pairs: list[TokenPair]) -> None:
        if not math.isfinite(loss.item()):
            lines = ", ".join(str(pair.line) for pair in pairs[:8])
            raise NotFinite(
                f"The loss became {loss.item()} at step {self.progress.step + 1} (data lines {lines}). Lower "
                f"learning_rate (it is {self.config.peak_learning_rate:g}), use dtype=float32, or look at these lines."
            )

    def _update(self, rate: float) -> float:
        """Clip and step; returns the gradient's norm before clipping."""
        self.scaler.unscale_(self.optimizer.inner) if self.scaler.is_enabled() else None
        limit = self.config.max_grad_norm or math.inf
        norm = full(torch.nn.utils.clip_grad_norm_(list(self.named.values()), limit)).item()
        if not math.isfinite(norm) and not self.scaler.is_enabled():
            raise NotFinite(
                f"The gradient became {norm} at step {self.progress.step + 1}. Lower learning_rate "
                f"(it is {self.config.peak_learning_rate:g}) or use dtype=float32."
            )
        self.optimizer.step(rate, self.scaler)
        return norm

    def _shrink(self, problem: BaseException) -> None:
        """After running out of memory: half the token budget, then recomputed activations, then give up."""
        self.optimizer.zero_grad()
        gc.collect()
        if self.session.scorer.device.type == "cuda":
            torch.cuda.empty_cache()
        budget, smallest = self.progress.token_budget, min(self.session.packing.alone)
        if budget // 2 < smallest:
            raise self._too_much() from problem
        self.progress.token_budget = budget // 2
        self.session.events.emit(
            "log",
            self.progress.step,
            level="warning",
            message=f"Memory ran out: {budget // 2} tokens in a forward instead of {budget}.",
        )

    def _too_much(self) -> OutOfMemory:
        return OutOfMemory(
            f"Memory ran out at step {self.progress.step + 1} with {self.progress.token_budget} tokens in a forward. Lower max_length, "
            "batch_size or token_budget, set gradient_checkpointing=on, or choose a smaller model."
        )

    # Numbers

    def _summed(self, sums: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return sums
        found: list = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(found, sums)
        names = {name for part in found for name in part}
        return {name: sum(part.get(name, 0.0) for part in found) for name in names}

    def _gathered(self, rewards: list[Tensor]) -> Tensor:
        mine = torch.cat([part.cpu() for part in rewards]) if rewards else torch.empty(0)
        if self.accelerator.num_processes == 1:
            return mine
        found: list = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(found, mine)
        return torch.cat(found)

    def _report(self, metrics: dict[str, float]) -> None:
        step, total = self.progress.step, self.session.plan.total_steps
        metrics["epoch"] = self.session.plan.epoch_of(step)
        self.metrics = metrics
        self.trackers.log(metrics, step)
        elapsed = time.monotonic() - self.started
        self.session.events.emit(
            "step",
            step,
            **metrics,
            total_steps=total,
            eta_seconds=round(elapsed / (step - self.started_step) * (total - step), 1),
            seconds=round(self.seconds, 3),
            pairs=self.progress.pairs_seen,
        )

    @property
    def seconds(self) -> float:
        """Time in training, over all sittings of a resumed run."""
        return self.progress.seconds + time.monotonic() - self.started

    # Evaluation

    def evaluate(self) -> None:
        """Score the evaluation split, emit the figures and keep the weights if they are the best so far."""
        session, progress = self.session, self.progress
        if session.evaluation is None:
            return
        session.events.emit("state", progress.step, stage="evaluating", total_steps=session.plan.total_steps)
        was_training = session.policy.training
        session.policy.eval()
        pairs = session.evaluation.pairs
        logps = score_pairs(
            session.scorer, pairs, budget=progress.token_budget, accelerator=self.accelerator, stop=session.stop
        )
        session.policy.train(was_training)
        found = losses_of(
            session.loss,
            pairs,
            logps,
            session.eval_reference,
            soft_labels=self.config.use_soft_labels,
            reward_mean=self.reward_mean.mean,
        )
        metrics = evaluation(found, logps, session.eval_reference)
        if progress.step == 0:
            self.metrics_before = metrics
        self.metrics_after = metrics
        self.trackers.log(metrics, progress.step)
        session.events.emit("eval", progress.step, **metrics)
        resume.keep_best(self, metrics)
        session.events.emit("state", progress.step, stage="training", total_steps=session.plan.total_steps)

    @property
    def out_of_patience(self) -> bool:
        patience = self.config.early_stopping_patience
        return patience > 0 and self.progress.evaluations_without_gain >= patience

    # Keeping

    def check_stop(self) -> None:
        """Raise Terminated on every process once a signal reached any of them."""
        if self.accelerator.num_processes > 1:
            flag = torch.tensor([float(self.session.stop.requested)], device=self.accelerator.device)
            self.session.stop.requested = bool(self.accelerator.reduce(flag, reduction="sum").item())
        self.session.stop.check()

    def save_if_due(self) -> None:
        steps, minutes = self.config.save_steps, self.config.save_minutes
        by_step = steps is not None and self.progress.step % steps == 0
        # One process's clock decides for all: saving sharded weights is collective.
        late = minutes > 0 and time.monotonic() - self.saved_at > 60 * minutes
        if self.accelerator.num_processes > 1:
            late = bool(broadcast_object_list([late])[0])
        if by_step or late:
            self.save()

    def save(self) -> None:
        """Write the training state, if steps were done since the last one."""
        if self.saved_step != self.progress.step or self.progress.step == 0:
            resume.save(self)
        self.saved_step, self.saved_at = self.progress.step, time.monotonic()
