"""What the model answers to some evaluation prompts before and after training, greedy and sampled, as events."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from worker.dpo.data import reading
from worker.dpo.data.answers import Answer, compared
from worker.dpo.data.pairs import Prompt
from worker.dpo.decoding.generation import generate
from worker.dpo.ground.events import Event
from worker.dpo.run.run import Run
from worker.dpo.run.setup import RunSetup

TEMPERATURE = 0.8


def before_training(run: Run) -> None:
    """Let the model answer before the first step. The run keeps the greedy answers, to compare those at its end."""
    run.answers_before = _answered(run, phase="before")


def after_training(run: Run) -> dict[str, Any]:
    """Let the model that will be published answer; what training changed in its greedy answers (`data.answers.compared`).

    Empty where nothing was asked, or where the answers of before weren't kept.
    """
    after = _answered(run, phase="after")
    before = run.answers_before
    return compared(before, after) if before and len(before) == len(after) else {}


def _answered(run: Run, *, phase: str) -> list[Answer]:
    """One `sample` event for each prompt and way of decoding; the greedy answers. phase: `before` or `after`.

    Of several processes with whole weights the first answers alone; sharded weights take all of them.
    """
    setup, config = run.setup, run.config
    if config.sample_prompts == 0 or not (run.is_sharded or run.accelerator.is_main_process):
        return []
    prompts = _prompts(setup)
    setup.scorer.use_plain_attention()
    greedy = _told(run, prompts, phase=phase, decoding="greedy", temperature=0.0)
    _told(run, prompts, phase=phase, decoding="sampled", temperature=TEMPERATURE)
    return greedy


def _told(run: Run, prompts: Sequence[Prompt], *, phase: str, decoding: str, temperature: float) -> list[Answer]:
    """The answers to `prompts`, each an event."""
    setup, config = run.setup, run.config
    if setup.accelerator.num_processes == 1:
        setup.stop.check()
    answers = setup.scorer.lend(
        partial(
            generate,
            tokenizer=setup.tokenizer,
            prompts=prompts,
            max_new_tokens=config.sample_tokens,
            temperature=temperature,
            seed=config.seed,
            together=run.is_sharded,
        )
    )
    for prompt, answer in zip(prompts, answers, strict=True):
        setup.events.emit(
            Event.SAMPLE,
            run.progress.step,
            phase=phase,
            decoding=decoding,
            temperature=temperature,
            prompt=prompt.messages,
            completion=answer.text,
            ended=answer.ended,
        )
    return answers


def _prompts(setup: RunSetup) -> list[Prompt]:
    """The first prompts of the evaluation split that differ."""
    wanted = setup.config.sample_prompts
    path = setup.request.eval_data or setup.request.data
    prompts: list[Prompt] = []
    for prompt in reading.read_prompts(
        path, on_problem=lambda problem: None, tokenizer=setup.tokenizer, limit=8 * wanted
    ):
        if len(prompts) < wanted and prompt.messages not in [other.messages for other in prompts]:
            prompts.append(prompt)
    return prompts
