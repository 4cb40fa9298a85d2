"""How much memory a run needs, measured on the model itself, and the token budget that fits the machine."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.dpo.data.pairs import TokenPair
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.memory import is_out_of_memory, memory_available, memory_used
from worker.dpo.model.loading import adapter_is_new, as_reference
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.packing import Packing
from worker.dpo.rows.plan import Plan

# Enough for matrix products to run at their full rate; more only takes memory. Half-precision products on a CPU need
# twice as many tokens for that, of half the size.
BUDGET_CPU, BUDGET_CPU_HALF, BUDGET_GPU = 1024, 2048, 16384
LEAST_CPU = 512  # below, products of a small model are a tenth slower and more
HEADROOM = 0.8
# Tokens that a GPU is tried with: enough that what doesn't grow with them hardly counts. Fewer where they have no room.
SAMPLE_GPU = 8192
# Steps of a plan that are searched for the largest: among so many the largest of all is hardly any larger.
STEPS_LOOKED_AT = 300
# What a C library holds for the blocks in use, and the holes between them, over their size: measured (`bench.dpo_vs_trl` and the
# tests print estimate and peak). GPUs' allocators are asked for what is in use.
HELD_CPU = 1.3


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a run will hold at its peak, by part, and the token budget that they were counted for."""

    token_budget: int
    checkpointing: bool
    resident: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    available: int

    @property
    def peak(self) -> int:
        return self.resident + self.gradients + self.optimizer + self.activations + self.head

    def __str__(self) -> str:
        again = ", activations recomputed in the backward" if self.checkpointing else ""
        return (
            f"Memory: about {_gib(self.peak)} at the peak ({_gib(self.resident)} held now, {_gib(self.available)} free). "
            f"{self.token_budget} tokens in one forward{again}."
        )


def plan_memory(
    scorer: PairScorer,
    pairs: Sequence[TokenPair],
    config: TrainConfig,
    *,
    plan: Plan | None = None,
    log: Callable[[str], None],
) -> MemoryPlan:
    """The token budget of a run and whether activations must be recomputed to fit, from the memory at hand.

    On a GPU some pairs go forward and backward, and its allocator says what that took at the most; `plan` says how much of
    the budget a step can use. Elsewhere one pair goes forward, and what autograd keeps is added up.
    """
    device = scorer.device
    available = memory_available(device)
    trainable = [weight for weight in scorer.parameters() if weight.requires_grad]
    gradients = sum(weight.numel() * weight.element_size() for weight in trainable)
    masters = sum(weight.numel() * 4 for weight in trainable if weight.element_size() < 4)
    optimizer = sum(2 * weight.numel() * max(4, weight.element_size()) for weight in trainable) + masters
    packing = scorer.packing(pairs)
    longest = max(packing.alone)
    wanted = config.token_budget or max(longest, min(_full_rate(device, config, pairs), packing.together()))
    shortest = pairs[packing.alone.index(min(packing.alone))]
    room = HEADROOM * available - gradients - optimizer - 2 * scorer.chunk_bytes
    for checkpointing in _checkpointing_choices(config):
        per_token = (
            measured_bytes(scorer, pairs, gradients, checkpointing=checkpointing)
            if device.type == "cuda"
            else activation_bytes(scorer, shortest, checkpointing=checkpointing)
        )
        budget = config.token_budget or int(min(wanted, max(longest, room / per_token)))
        if budget * per_token <= room:
            break
    if math.isinf(per_token):
        log("Memory is short: not even one pair went forward and backward.")
        per_token = available / budget
    elif budget * per_token > room:
        log(f"Memory is short: about {_gib(budget * per_token - room)} more would be needed for the longest pair.")
    activations = int(budget * per_token)
    if device.type == "cuda" and plan is not None:
        # Training holds what its largest micro-batch keeps; scoring fills the budget, and keeps nothing, gradients neither.
        trained = min(budget, _largest_step(packing, plan)) * per_token
        scored = (
            budget * scored_bytes(scorer, pairs, adapter_off=adapter_is_new(scorer.model, config))
            - gradients
            - optimizer
        )
        activations = int(max(trained, scored))
    return MemoryPlan(
        token_budget=budget,
        checkpointing=checkpointing,
        resident=memory_used(device),
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        head=scorer.chunk_bytes,
        available=available,
    )


def _largest_step(packing: Packing, plan: Plan) -> int:
    """Tokens of the largest batch among the plan's first steps, all of it in one forward."""
    largest = 0
    for step in range(min(plan.total_steps, STEPS_LOOKED_AT)):
        ordered = packing.order(plan.batch(step))
        largest = max(largest, _size(packing, ordered))
    return largest


def _size(packing: Packing, ordered: Sequence[int]) -> int:
    """Tokens of one forward over these pairs, in the packing's order."""
    size = packing.alone[ordered[0]]
    for place, index in enumerate(ordered[1:], start=1):
        size = packing.grown(ordered[:place], size, index)
    return size


def _full_rate(device: torch.device, config: TrainConfig, pairs: Sequence[TokenPair]) -> int:
    """Tokens in one forward at which products reach their rate. On a processor not more than the longest pair takes as two
    plain rows, so that short pairs, several in a forward, hold no more than one at a time does in two rows of its own."""
    if device.type == "cuda":
        return BUDGET_GPU
    half = config.mixed_precision != "no" or config.dtype in ("bfloat16", "float16")
    plain = max(2 * len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids) for pair in pairs)
    return min(BUDGET_CPU_HALF if half else BUDGET_CPU, max(LEAST_CPU, plain))


def least_room(plans: Sequence[MemoryPlan]) -> MemoryPlan:
    """One plan for all processes, with the budget of the one with the least room.

    With budgets of their own they would cut batches differently, and train on different pairs.
    """
    budget = min(plan.token_budget for plan in plans)
    return replace(plans[0], token_budget=budget, checkpointing=any(plan.checkpointing for plan in plans))


def _checkpointing_choices(config: TrainConfig) -> tuple[bool, ...]:
    return {"on": (True,), "off": (False,), "auto": (False, True)}[config.gradient_checkpointing]


def set_checkpointing(scorer: PairScorer, wanted: bool) -> None:
    """Recompute activations in the backward, or keep them."""
    model = scorer.causal_lm
    scorer.recomputes = wanted
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    elif any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        model.gradient_checkpointing_disable()


def activation_bytes(scorer: PairScorer, pair: TokenPair, *, checkpointing: bool) -> float:
    """Bytes that forward and backward hold at once, per token of the budget; weights are not counted."""
    set_checkpointing(scorer, False)
    whole = _kept_bytes(scorer, pair)
    set_checkpointing(scorer, checkpointing)
    kept = _kept_bytes(scorer, pair) if checkpointing else whole
    # While one layer goes backward, its gradients hold about twice what it kept, or would keep if it weren't computed again.
    layers = max(1, getattr(scorer.causal_lm.config.get_text_config(), "num_hidden_layers", 1))
    at_once = kept + (3 if checkpointing else 2) * whole / layers
    return max(1.0, at_once / scorer.packing([pair]).alone[0] * (HELD_CPU if scorer.device.type == "cpu" else 1.0))


def measured_bytes(scorer: PairScorer, pairs: Sequence[TokenPair], gradients: int, *, checkpointing: bool) -> float:
    """Bytes that a forward and backward on a GPU hold at the most, per token of the budget; weights and `gradients` are not counted.

    Infinite where not even the first pair has room.
    """
    set_checkpointing(scorer, checkpointing)
    packing = scorer.packing(pairs)
    for tokens in (SAMPLE_GPU, SAMPLE_GPU // 4, 1):
        sample = _first(packing, tokens)
        try:
            peak = _peak_of([pairs[index] for index in sample], scorer)
        except Exception as problem:
            if not is_out_of_memory(problem):
                raise
            torch.cuda.empty_cache()
            continue
        return max(1.0, (peak - gradients) / _size(packing, sample))
    return math.inf


def scored_bytes(scorer: PairScorer, pairs: Sequence[TokenPair], *, adapter_off: bool) -> float:
    """Bytes that a forward without gradients holds on a GPU at the most, per token."""
    packing = scorer.packing(pairs)
    sample = _first(packing, SAMPLE_GPU)
    # As the reference is scored: layers are compiled for it, and once is enough.
    with as_reference(scorer.model, adapter_off=adapter_off):
        peak = _peak_of([pairs[index] for index in sample], scorer)
    return peak / _size(packing, sample)


def _first(packing: Packing, tokens: int) -> list[int]:
    """Pairs from the beginning of the packing's order, of about so many tokens together, but one at least."""
    ordered = packing.order(range(len(packing.alone)))
    sample, size = ordered[:1], packing.alone[ordered[0]]
    for index in ordered[1:]:
        size = packing.grown(sample, size, index)
        if size > tokens:
            break
        sample.append(index)
    return sample


def _peak_of(pairs: Sequence[TokenPair], scorer: PairScorer) -> int:
    """Bytes above those in use now that a forward and backward take on a GPU at the most."""
    device = scorer.device
    weights = [weight for weight in scorer.parameters() if weight.requires_grad]
    training = scorer.training
    scorer.train(torch.is_grad_enabled())
    try:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        logps = scorer(scorer.rows(pairs))
        if logps.requires_grad:
            torch.autograd.grad(logps.sum(), weights, allow_unused=True)
        return torch.cuda.max_memory_allocated(device) - before
    finally:
        scorer.train(training)


def _kept_bytes(scorer: PairScorer, pair: TokenPair) -> int:
    """What autograd keeps of one pair's forward."""
    weights = {weight.untyped_storage().data_ptr() for weight in scorer.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    training = scorer.training
    scorer.train()
    state = torch.get_rng_state()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = scorer(scorer.rows([pair]))
    del output
    torch.set_rng_state(state)
    scorer.train(training)
    return sum(kept.values())


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
