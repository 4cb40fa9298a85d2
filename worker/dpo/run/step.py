"""One optimizer step, from a batch's pairs to changed weights."""

import math

import torch
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.errors import NotFinite
from worker.dpo.ground.memory import give_back_freed_memory, resident_memory
from worker.dpo.ground.processes import everyones, summed
from worker.dpo.loss.metrics import means, totals
from worker.dpo.loss.pair_losses import losses_of
from worker.dpo.rows.plan import micro_batches
from worker.dpo.run.optimizer import full, learning_rate
from worker.dpo.run.run import Run, Work
from worker.dpo.run.together import all_or_none, past_return


def optimizer_step(run: Run) -> dict[str, float]:
    """One optimizer step over the plan's next batch; returns the means over its pairs, under TRL's names.

    The batch is cut into micro-batches of at most `token_budget` tokens. The loss is the sum over the batch's pairs by
    their number, however they are cut and dealt to processes. Raises NotFinite, Terminated, OutOfMemory, and whatever
    says that memory ran out, which leaves weights and progress as they were.
    """
    setup, config, progress = run.setup, run.config, run.progress
    processes = run.accelerator.num_processes
    work = run.ahead
    if work is None or (work.step, work.budget) != (progress.step, progress.token_budget):
        work = work_of(run, progress.step)
    run.ahead = None
    batch, mine = work.batch, work.mine
    rate = learning_rate(config, progress.step, setup.plan.total_steps)
    counted: dict[str, Tensor] = {}
    rewards: list[Tensor] = []
    # Read only when all is under way: a GPU that is asked for a number waits for the host afterwards.
    seen: list[tuple[Tensor, list[TokenPair]]] = []

    run.optimizer.zero_grad()
    _seed_dropout(run)
    if not all(module.training for module in run.modules):
        run.wrapped.train()
    with all_or_none(run) as agreement:
        for number, indices in enumerate(mine, start=1):
            last = number == len(mine)
            if processes == 1:
                setup.stop.check()
            # An empty micro-batch only keeps the processes in step: any pair, counted as nothing.
            places = indices or batch[:1]
            pairs = [setup.train.pairs[place] for place in places]
            with run.exchanging(last):
                logps = run.wrapped(work.first if number == 1 else setup.scorer.rows(pairs))
                losses = losses_of(
                    setup.loss,
                    pairs,
                    logps,
                    None if run.reference.train is None else run.reference.train[:, places],
                    soft_labels=config.use_soft_labels,
                    reward_mean=run.reward_mean.mean,
                )
                # DDP averages over processes.
                loss = losses.loss.sum() * (processes / len(batch) if indices else 0.0)
                seen.append((loss.detach(), pairs))
                if last:
                    # Gradients are first exchanged in the last backward: until here all can still turn back together.
                    agreement.reach()
                run.scaler.scale(loss).backward()
            if indices:
                rewards += [losses.rewards_chosen, losses.rewards_rejected]
                for name, value in totals(losses, logps).items():
                    counted[name] = counted[name] + value if name in counted else value
    with past_return(run):
        norm = _update(run, rate)
        if progress.step + 1 < setup.plan.total_steps:
            # While a GPU is at work on this step.
            run.ahead = work_of(run, progress.step + 1)
        sums, norm_now = _read(run, seen, counted, norm)
        if setup.loss.uses_reward_mean:
            mine_seen = torch.cat([part.cpu() for part in rewards]) if rewards else torch.empty(0)
            run.reward_mean.update(torch.cat(everyones(run.accelerator, mine_seen)))
        sums = summed(run.accelerator, sums)
    progress.step += 1
    progress.pairs_seen += int(sums["pairs"])
    _give_back_above_estimate(run)
    return means(sums) | {"grad_norm": norm_now, "learning_rate": rate}


def work_of(run: Run, step: int) -> Work:
    """What this process has to do in a step, its first rows made and on their way to the device."""
    setup, processes = run.setup, run.accelerator.num_processes
    batch, budget = setup.plan.batch(step), run.progress.token_budget
    mine = micro_batches(batch, setup.packing, budget=budget, processes=processes)[run.accelerator.process_index]
    first = setup.scorer.rows([setup.train.pairs[place] for place in mine[0] or batch[:1]])
    return Work(step, budget, batch, mine, first)


def _update(run: Run, rate: float) -> Tensor:
    """Clip and step; returns the gradient's norm before clipping."""
    if run.scaler.is_enabled():
        run.scaler.unscale_(run.optimizer.inner)
    limit = run.config.max_grad_norm or math.inf
    norm = full(torch.nn.utils.clip_grad_norm_(list(run.named.values()), limit))
    run.optimizer.step(rate, run.scaler)
    return norm


def _seed_dropout(run: Run) -> None:
    # Dropout is a function of seed, step and process: nothing that ran before can shift it.
    steps = run.setup.plan.total_steps + 1
    processes, rank = run.accelerator.num_processes, run.accelerator.process_index
    torch.manual_seed((run.config.seed * steps + run.progress.step) * processes + rank)


def _read(
    run: Run, seen: list[tuple[Tensor, list[TokenPair]]], counted: dict[str, Tensor], norm: Tensor
) -> tuple[dict[str, float], float]:
    """(sums over pairs by name, the gradient's norm), read from the device in one go.

    seen: loss and pairs of each micro-batch. Raises NotFinite for the first whose loss isn't finite, or for the gradient:
    the weights are changed by then, and the run ends.
    """
    values = [*(loss for loss, _ in seen), norm, *counted.values()]
    losses = torch.stack([value.double().to(norm.device) for value in values]).tolist()
    numbers = losses[len(seen) :]
    where = f"at step {run.progress.step + 1}"
    rate = f"learning_rate (it is {run.config.peak_learning_rate:g})"
    for value, (_, pairs) in zip(losses, seen, strict=False):
        if not math.isfinite(value):
            lines = ", ".join(str(pair.line) for pair in pairs[:8])
            raise NotFinite(
                f"The loss became {value} {where} (data lines {lines}). Lower {rate}, use dtype=float32, or look at "
                "these lines."
            )
    if not math.isfinite(numbers[0]) and not run.scaler.is_enabled():
        raise NotFinite(f"The gradient became {numbers[0]} {where}. Lower {rate} or use dtype=float32.")
    return dict(zip(counted, numbers[1:], strict=True)), numbers[0]


def _give_back_above_estimate(run: Run) -> None:
    """Return freed memory to the system once the process holds more than it was estimated to need."""
    # Blocks of many sizes leave holes between them, more with every step.
    if run.setup.scorer.device.type == "cpu" and resident_memory() > run.setup.memory.peak:
        give_back_freed_memory()
