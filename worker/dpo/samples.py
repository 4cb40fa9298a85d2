"""Answers to a few evaluation prompts before and after training, greedy and sampled, as events."""

from itertools import islice

from worker.dpo import data
from worker.dpo.generate import generate
from worker.dpo.session import Session

TEMPERATURE = 0.8


def emit_samples(session: Session, *, step: int, phase: str) -> None:
    """One `sample` event for each prompt and way of decoding. phase: `before` or `after`.

    Only on one process, whose model is whole; sharded weights can't answer without the other processes.
    """
    config, accelerator = session.config, session.accelerator
    path = session.request.eval_data or session.request.data
    if config.sample_prompts == 0 or accelerator.num_processes > 1:
        return
    seen: list[list[dict]] = []
    for _, prompt in islice(
        data.read_prompts(path, on_problem=lambda problem: None, tokenizer=session.tokenizer, limit=8 * config.sample_prompts),
        None,
    ):
        if prompt not in seen and len(seen) < config.sample_prompts:
            seen.append(prompt)
    session.scorer.use_plain_attention()
    for decoding, temperature in (("greedy", 0.0), ("sampled", TEMPERATURE)):
        for prompt in seen:
            session.stop.check()
            (answer,) = generate(
                session.policy,
                session.tokenizer,
                [prompt],
                max_new_tokens=config.sample_tokens,
                temperature=temperature,
                seed=config.seed,
            )
            session.events.emit(
                "sample",
                step,
                phase=phase,
                decoding=decoding,
                temperature=temperature,
                prompt=prompt,
                completion=answer,
            )
