"""Small margins: whose they are, and what that checkpoint thinks of answers.

The implicit margin of a pair is the difference of its answers' rewards, log π − log π_ref by the checkpoint and its base model, so
each answer is scored once, whatever it is paired with.
"""

from collections.abc import Mapping

from sqlalchemy import Engine, exists, or_, select, update
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import read_session, write_session
from app.errors import Invalid
from app.models import ArmTrialRun, Checkpoint, GeneratedAnswer, Job, PersonRun, Project
from app.services.jobs import leases
from app.services.loop.generating.answers import STORED_AT_ONCE, Place
from app.services.loop.generating.arms import Arms
from app.services.training import checkpoints, runs


def checkpoint_of(session: Session, *, project: Project, arms: Arms) -> int | None:
    """The project's newest checkpoint where the arms go by margins, else None. Those that only measure, of trials and of
    studies of people, don't count.

    Raises Invalid where there is none.
    """
    if not arms.wants_margins:
        return None
    without_somebody = exists().where(PersonRun.job_id == Job.id, PersonRun.user_id.is_not(None))
    measures = or_(exists().where(ArmTrialRun.job_id == Job.id), without_somebody)
    made = select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(Job.project_id == project.id, ~measures)
    newest = session.scalar(made.order_by(Checkpoint.id.desc()).limit(1))
    if newest is None:
        raise Invalid(
            "The project has no checkpoint, so nothing has a margin yet.",
            "Train once, or leave the arm “margin” out.",
            field="arms",
        )
    return newest


def require(engine: Engine, settings: Settings, *, project: Project, arms: Arms) -> None:
    """Raises Invalid where the margin arm has no checkpoint, or its base model isn't here. It reads files."""
    with read_session(engine) as session:
        checkpoint_id = checkpoint_of(session, project=project, arms=arms)
        base = checkpoints.get(session, checkpoint_id).run.base_model if checkpoint_id else ""
    if base:
        runs.require_model(settings, base)


def note(engine: Engine, *, job_id: int, token: str, rewards: Mapping[Place, float]) -> None:
    """Write down what the checkpoint thinks of answers, some at a time and under the job's lease."""
    places = list(rewards)
    for first in range(0, len(places), STORED_AT_ONCE):
        with write_session(engine) as session:
            leases.hold(session, job_id=job_id, token=token)
            for prompt_id, source, sample in places[first : first + STORED_AT_ONCE]:
                session.execute(
                    update(GeneratedAnswer)
                    .where(
                        GeneratedAnswer.job_id == job_id,
                        GeneratedAnswer.prompt_id == prompt_id,
                        GeneratedAnswer.source == source,
                        GeneratedAnswer.sample == sample,
                    )
                    .values(reward=rewards[prompt_id, source, sample])
                    .execution_options(synchronize_session=False)
                )
