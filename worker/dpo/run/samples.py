"""Answers to a few evaluation prompts before and after training, greedy and sampled, as events."""

from functools import partial

from worker.dpo.data import reading
from worker.dpo.data.pairs import Prompt
from worker.dpo.model.generation import generate
from worker.dpo.run.setup import Session

TEMPERATURE = 0.8


def emit_samples(session: Session, *, step: int, phase: str) -> None:
    """One `sample` event for each prompt and way of decoding. phase: `before` or `after`.

    Of several processes with whole weights the first answers alone; sharded weights take all of them.
    """
    config = session.config
    if config.sample_prompts == 0 or not (session.is_sharded or session.accelerator.is_main_process):
        return
    prompts = _prompts(session)
    session.scorer.use_plain_attention()
    for decoding, temperature in (("greedy", 0.0), ("sampled", TEMPERATURE)):
        if session.accelerator.num_processes == 1:
            session.stop.check()
        answers = session.scorer.lend(
            partial(
                generate,
                tokenizer=session.tokenizer,
                prompts=prompts,
                max_new_tokens=config.sample_tokens,
                temperature=temperature,
                seed=config.seed,
                together=session.is_sharded,
            )
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            session.events.emit(
                "sample",
                step,
                phase=phase,
                decoding=decoding,
                temperature=temperature,
                prompt=prompt.messages,
                completion=answer,
            )


def _prompts(session: Session) -> list[Prompt]:
    """The first prompts of the evaluation split that differ."""
    wanted = session.config.sample_prompts
    path = session.request.eval_data or session.request.data
    found: list[Prompt] = []
    for prompt in reading.read_prompts(
        path, on_problem=lambda problem: None, tokenizer=session.tokenizer, limit=8 * wanted
    ):
        if len(found) < wanted and prompt.messages not in [other.messages for other in found]:
            found.append(prompt)
    return found
