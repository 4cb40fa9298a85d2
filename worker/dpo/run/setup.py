"""What a run works with, made ready: data, model, scorer, plan. `loop.py` goes through it."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from worker.dpo.data import fitting, moment, reading
from worker.dpo.data.pairs import Dataset
from worker.dpo.ground.cache import cache_folder
from worker.dpo.ground.config import TrainConfig
from worker.dpo.ground.disk import write_error
from worker.dpo.ground.errors import BadData
from worker.dpo.ground.events import Event, EventWriter
from worker.dpo.ground.memory import keep_freed_memory
from worker.dpo.ground.processes import everyones, first_ones
from worker.dpo.ground.stopping import Stop
from worker.dpo.loss.registry import LossConfig, configure
from worker.dpo.machine import number_type, rates
from worker.dpo.machine.number_type import NumberType
from worker.dpo.machine.threads import Threads, usable_cores
from worker.dpo.model import loading
from worker.dpo.model.agreement import choose_scorer
from worker.dpo.model.scorer import PairScorer
from worker.dpo.rows.packing import Packing
from worker.dpo.rows.plan import Plan, key_of, make_plan
from worker.dpo.run import state
from worker.dpo.run.memory_plan import MemoryPlan, least_room, plan_memory

# From so many pairs on a run with compiled layers ends first: on an H200 the 1.5B shape starts after 25.3 s instead of 16.2 s,
# and trains on 179.8 pairs of HH a second instead of 71.9; 9.1 / (1/71.9 - 1/179.8) = 1,090 (docs/engine.md).
REPAYING_PAIRS = 1100


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for. fresh: drop an earlier training state instead of resuming from it."""

    model: str
    data: Path
    out: Path
    config: TrainConfig
    eval_data: Path | None = None
    fresh: bool = False


@dataclass(frozen=True)
class RunSetup:
    """Everything that is settled before the first step and stays as it is.

    request: as it was made, but for the number type, which is the one that was chosen. number_type: how it was. threads: what
    sets their number. weights: SHA-256 of the base weights as loaded. adapter: `loading.adapter_name` of the one
    that it starts from, None where there is none. max_length: tokens of a prompt and one completion. packing: what the training pairs
    take of a token budget in the scorer's layout.
    """

    request: RunRequest
    events: EventWriter
    stop: Stop
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    policy: nn.Module
    scorer: PairScorer
    loss: LossConfig
    train: Dataset
    evaluation: Dataset | None
    plan: Plan
    memory: MemoryPlan
    weights: str
    adapter: str | None
    max_length: int
    packing: Packing
    number_type: NumberType
    threads: Threads

    @property
    def config(self) -> TrainConfig:
        return self.request.config


def prepare(request: RunRequest, events: EventWriter, stop: Stop, accelerator: Accelerator) -> RunSetup:
    """Load and check everything that `request` names. Raises ModelError, DataFileError, BadData."""
    transformers_logging.disable_progress_bar()
    keep_freed_memory()
    config = request.config
    loss = configure(config)
    events.emit(Event.STATE, stage="loading")
    tokenizer = loading.load_tokenizer(request.model)
    if moment.writes_time(tokenizer):
        _fix_time(request, tokenizer, accelerator)
    device = str(accelerator.device) if accelerator.num_processes > 1 else loading.choose_device(config.device)
    numbers = _number_type(request, device, events, accelerator)
    config = config.model_copy(update={"dtype": numbers.dtype, "pair_order": _pair_order(request, accelerator)})
    request = replace(request, config=config)
    if (config.mixed_precision == "fp16" or config.dtype == "float16") and not device.startswith("cuda"):
        raise loading.ModelError("fp16 needs a CUDA GPU. On this machine use bfloat16 or float32.")
    base = loading.load_base(request.model, dtype=config.dtype, device=device, load_in_4bit=config.load_in_4bit)
    stop.check()
    train, evaluation, max_length = _load_data(request, tokenizer, base, events)
    stop.check()
    # From here on it looks at what other programs take: reading a file may have started processes of our own.
    most = usable_cores() if device == "cpu" and accelerator.num_processes == 1 else None
    threads = Threads(
        config.threads if device == "cpu" else "auto",
        most=most,
        set_count=torch.set_num_threads,
        original=torch.get_num_threads(),
    )
    plan = make_plan(
        len(train.pairs),
        batch_size=config.batch_size,
        seed=config.seed,
        epochs=config.num_train_epochs,
        max_steps=config.max_steps,
        keys=tuple(map(key_of, train.pairs)) if config.pair_order == "content" else None,
    )
    weights = loading.weights_hash(base)
    policy = loading.prepare_policy(base, config)
    scorer = choose_scorer(
        policy,
        train.pairs,
        config,
        compile_layers=device.startswith("cuda")
        and (accelerator.num_processes == 1 or config.compile == "on")
        and _repays_compiling(config, pairs=plan.total_steps * config.batch_size),
        scores={loading.adapter_is_new(policy, config)} | ({False} if evaluation is not None else set()),
        log=lambda text: events.emit(Event.LOG, message=text),
        warn=lambda text, kind: events.emit(Event.LOG, level="warning", message=text, **{f"{kind}_layers": False}),
    )
    stop.check()
    memory = plan_memory(scorer, train.pairs, config, plan=plan, log=lambda text: events.emit(Event.LOG, message=text))
    memory = least_room(everyones(accelerator, memory))
    events.emit(
        Event.LOG,
        message=str(memory),
        peak_bytes=memory.peak,
        token_budget=memory.token_budget,
        shared_prefix=scorer.shared,
        fused_layers=scorer.fused_layers,
        compiled_layers=scorer.compiled_layers,
    )
    return RunSetup(
        request=request,
        events=events,
        stop=stop,
        accelerator=accelerator,
        tokenizer=tokenizer,
        policy=policy,
        scorer=scorer,
        loss=loss,
        train=train,
        evaluation=evaluation,
        plan=plan,
        memory=memory,
        weights=weights,
        adapter=None if config.adapter is None else loading.adapter_name(config.adapter),
        max_length=max_length,
        packing=scorer.packing(train.pairs),
        number_type=numbers,
        threads=threads,
    )


def _pair_order(request: RunRequest, accelerator: Accelerator) -> str:
    """What the order of pairs is drawn from. A run that goes on from a state of before keeps the plan that it had."""
    numbers = None if request.fresh or not accelerator.is_main_process else state.newest_numbers(request.out)
    is_of_before = numbers is not None and "pair_order" not in numbers
    return "position" if first_ones(accelerator, is_of_before) else request.config.pair_order


def _fix_time(request: RunRequest, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator) -> None:
    """Have a template that writes the date write the one of the run's first start. Raises DiskFull and its kinds."""
    try:
        begun = moment.noted(request.out / state.FOLDER / state.BEGUN, anew=request.fresh)
    except OSError as problem:
        raise write_error(problem, out=request.out, step=0) from problem
    moment.fix(tokenizer, first_ones(accelerator, begun))


def _number_type(request: RunRequest, device: str, events: EventWriter, accelerator: Accelerator) -> NumberType:
    """The type to compute in, said in an event, with a warning for an explicit choice that is slow here."""
    measured = first_ones(accelerator, rates.product_rates(device) if accelerator.is_main_process else {})
    kept = None if request.fresh else first_ones(accelerator, state.kept_dtype(request.out))
    chosen = number_type.choose(request.config, measured, kept=kept)
    asked = request.config.dtype
    events.emit(Event.LOG, message=f"Numbers: {chosen.why}", asked=asked, **chosen.facts())
    if chosen.warning is not None:
        events.emit(Event.LOG, level="warning", message=chosen.warning, dtype=chosen.dtype)
    return chosen


def _repays_compiling(config: TrainConfig, *, pairs: int) -> bool:
    """Whether to compile the layers for a run that trains on so many pairs, counted as often as it sees them."""
    if config.compile != "auto":
        return config.compile == "on"
    return pairs >= REPAYING_PAIRS and not config.load_in_4bit


def _load_data(
    request: RunRequest, tokenizer: PreTrainedTokenizerBase, base: PreTrainedModel, events: EventWriter
) -> tuple[Dataset, Dataset | None, int]:
    """(training pairs, evaluation pairs, maximum length in tokens). Raises BadData, DataFileError."""
    config = request.config
    limit = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    load = partial(
        reading.load_dataset,
        tokenizer=tokenizer,
        cache_dir=cache_folder() / "tokens",
        num_workers=config.num_workers,
        remark=lambda text: events.emit(Event.LOG, message=text, level="warning"),
    )
    rows = base.get_input_embeddings().weight.shape[0]
    train = fitting.within_vocabulary(load(request.data, max_length=None), rows)
    if not train.pairs:
        raise BadData(
            f"{request.data} has no pair that this model can read. Line {train.problems[0].line}: {train.problems[0].message}"
        )
    max_length = config.max_length or fitting.suggest_max_length(train.pairs, model_limit=limit)
    if limit is not None and max_length > limit:
        raise BadData(
            f"max_length is {max_length}, but the model reads at most {limit} tokens. Set it to {limit} or less."
        )
    train = fitting.fit(train, max_length, bos_id=tokenizer.bos_token_id)
    _report("train", request.data, train, max_length, events)
    evaluation = None
    if request.eval_data is not None:
        evaluation = fitting.within_vocabulary(load(request.eval_data, max_length=max_length), rows)
        _report("eval", request.eval_data, evaluation, max_length, events)
    return train, evaluation, max_length


def _report(split: str, path: Path, dataset: Dataset, max_length: int, events: EventWriter) -> None:
    """Say what the file gave, with the lines that were left out or changed, by reason."""
    if not dataset.pairs:
        raise BadData(f"{path} has no pair that fits in {max_length} tokens. Raise max_length.")
    counts = Counter(problem.reason for problem in dataset.problems)
    events.emit(
        Event.LOG,
        message=f"{split}: {len(dataset.pairs)} pairs of up to {max_length} tokens, template: {dataset.template}.",
        split=split,
        pairs=len(dataset.pairs),
        max_length=max_length,
        problems=dict(counts),
    )
    for problem in dataset.problems[:20]:
        what = "left out" if problem.dropped else "changed"
        events.emit(
            Event.LOG,
            message=f"{split} line {problem.line} {what}: {problem.message}",
            level="warning",
            reason=problem.reason,
        )
    if len(dataset.problems) > 20:
        events.emit(
            Event.LOG, message=f"{split}: {len(dataset.problems) - 20} more lines with remarks.", level="warning"
        )
