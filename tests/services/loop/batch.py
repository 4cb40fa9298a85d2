"""A blind batch whose answers a test gives: everything but the job that would make them."""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, select

from app.config import Settings
from app.db import read_session, write_session
from app.models import (
    Arm,
    Evaluation,
    EvaluationPair,
    Finish,
    GeneratedAnswer,
    GenerationPlan,
    JobKind,
    Pairing,
    Project,
    Prompt,
    Purpose,
    Split,
    User,
)
from app.models.base import now as utc_now
from app.services.collecting import desk, judgments, pairs
from app.services.collecting.pairs import NewPair
from app.services.jobs import jobs
from app.services.loop import evaluations
from app.services.loop.evaluating import choosing, sides
from app.services.loop.evaluating.wanted import Wanted
from tests.factory import Factory
from tests.services.training.trained import trained

LATER = timedelta(minutes=10)  # long enough for a judgment to count


def answers_of(place: int) -> tuple[str, str]:
    return f"The new way to do {place}.", f"An older way to do {place}."


class Batch:
    """A trained checkpoint, and evaluation prompts that nobody knows. `evaluators` may judge."""

    def __init__(self, engine: Engine, settings: Settings, factory: Factory, *, people: int = 3, **rules: Any) -> None:
        self.engine, self.factory = engine, factory
        self.engineer = factory.engineer()
        self.project: Project = factory.judged(4, eval_percent=0, **rules)
        _, self.checkpoint = trained(engine, settings, self.project, self.engineer)
        self.evaluators: list[User] = [factory.user() for _ in range(people)]

    def prompts(self, count: int, *, split: Split = Split.EVAL) -> list[int]:
        """New prompts of a split with no pairs of theirs."""
        with write_session(self.engine) as session:
            rows = [
                Prompt(
                    project_id=self.project.id,
                    content_hash=f"{random.getrandbits(256):064x}",
                    messages=[{"role": "user", "content": f"How do I do {random.getrandbits(60)}?"}],
                    split=split,
                )
                for _ in range(count)
            ]
            session.add_all(rows)
            session.flush()
            return [row.id for row in rows]

    def ordinary(self, count: int) -> None:
        """New pairs that are asked for training, of each arm in turn."""
        with write_session(self.engine) as session:
            new = [
                NewPair(
                    [{"role": "user", "content": f"Tell me about {random.getrandbits(60)}."}],
                    (f"Well, {number}.", f"So, {number}!"),
                    arm=list(Arm)[number % len(Arm)],
                )
                for number in range(count)
            ]
            pairs.add_many(session, project=session.merge(self.project), pairs=new)

    def prepared(self, wanted: Wanted | None = None, *, opponent: str = "base", seed: int = 5) -> Evaluation:
        wanted = (wanted or Wanted()).checked()
        with write_session(self.engine) as session:
            project = session.merge(self.project)
            two = sides.resolve(session, checkpoint_id=self.checkpoint.id, opponent=opponent)
            chosen = choosing.choose(session, project=project, wanted=wanted, seed=seed)
            made = evaluations.prepare(
                session, project=project, sides=two, wanted=wanted, chosen=chosen, seed=seed, by=self.engineer
            )
            job, _ = jobs.queue(session, kind=JobKind.GENERATION, project_id=project.id, by=None)
            session.add(
                GenerationPlan(
                    job_id=job.id,
                    purpose=Purpose.EVALUATION,
                    prompts={},
                    sources=[],
                    sampling={},
                    pairing=Pairing.NONE,
                    evaluation_id=made.id,
                )
            )
            made.job_id = job.id
            return made

    def answered(
        self,
        evaluation: Evaluation,
        answers: Callable[[int], tuple[str, str]] = answers_of,
        *,
        failed: Sequence[int] = (),
        cut: Sequence[int] = (),
    ) -> Evaluation:
        """Both sides' answers by place; those of `failed` places failed, new ones of `cut` places stopped at the limit."""
        with write_session(self.engine) as session:
            for pair in session.scalars(self._pairs(evaluation)).all():
                for source, text in enumerate(answers(pair.place)):
                    limit = Finish.LENGTH if pair.place in cut and source == 0 else Finish.STOP
                    finish = Finish.FAILED if pair.place in failed and source == 0 else limit
                    session.add(
                        GeneratedAnswer(
                            job_id=evaluation.job_id,
                            prompt_id=pair.prompt_id,
                            source=source,
                            seed=1,
                            text=text,
                            finish=finish,
                        )
                    )
            session.flush()
            return evaluations.seed(session, evaluation_id=evaluation.id)

    def asking(self, count: int = 6, wanted: Wanted | None = None, **more: Any) -> Evaluation:
        """An evaluation of so many prompts that asks now."""
        self.prompts(count)
        return self.answered(self.prepared(wanted), **more)

    def judge(self, user: User, choose: Callable[[str], str] | str = "left") -> tuple[str, str] | None:
        """Judges the person's next pair; (left, right) as they saw it. `choose`: what they pick, or what they pick for the left
        answer's text. Shown and judged in a transaction each, as pages do it."""
        with write_session(self.engine) as session:
            pair = desk.show_next(session, project=session.merge(self.project), user=session.merge(user))
        if pair is None:
            return None
        choice = choose if isinstance(choose, str) else choose(pair.left)
        with write_session(self.engine) as session:
            judgments.record(session, token=pair.token, user=session.merge(user), choice=choice)  # type: ignore[arg-type]
        return pair.left, pair.right

    def settle(self, evaluation: Evaluation, after: timedelta = LATER) -> Evaluation:
        with write_session(self.engine) as session:
            evaluations.settle(session, evaluation.id, now=utc_now() + after)
        return self.now(evaluation)

    def now(self, evaluation: Evaluation) -> Evaluation:
        with read_session(self.engine) as session:
            return evaluations.get(session, evaluation.id)

    def pairs(self, evaluation: Evaluation) -> list[EvaluationPair]:
        with read_session(self.engine) as session:
            return list(session.scalars(self._pairs(evaluation)))

    @staticmethod
    def _pairs(evaluation: Evaluation) -> Any:
        return (
            select(EvaluationPair).where(EvaluationPair.evaluation_id == evaluation.id).order_by(EvaluationPair.place)
        )


def prefers_new(left: str) -> str:
    """Picks the checkpoint's answer, as `answers_of` writes it."""
    return "left" if left.startswith("The new") else "right"


def is_blind(answers: tuple[str, str] | None) -> bool:
    """Whether a pair that somebody saw is one of an evaluation's."""
    return answers is not None and any(text.startswith("The new") for text in answers)
