"""What the model answers to a few evaluation prompts before and after training, greedy and sampled, as events."""

from functools import partial

from worker.dpo.data import reading
from worker.dpo.data.pairs import Prompt
from worker.dpo.ground.events import Event
from worker.dpo.model.generation import generate
from worker.dpo.run.run import Run
from worker.dpo.run.setup import RunSetup

TEMPERATURE = 0.8


def emit_samples(run: Run, *, phase: str) -> None:
    """One `sample` event for each prompt and way of decoding. phase: `before` or `after`.

    Of several processes with whole weights the first answers alone; sharded weights take all of them.
    """
    setup, config = run.setup, run.config
    if config.sample_prompts == 0 or not (run.is_sharded or run.accelerator.is_main_process):
        return
    prompts = _prompts(setup)
    setup.scorer.use_plain_attention()
    for decoding, temperature in (("greedy", 0.0), ("sampled", TEMPERATURE)):
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
                completion=answer,
            )


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
