"""The part of a run's page about its labels: what a check would cost, or what the newest one says."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.models import JobState, LabelCheck, TrainingRun
from app.services.loop.labels import checks, cost, pairs, words
from app.services.loop.labels.cost import Cost
from app.services.loop.labels.pairs import Listed, Listing
from app.services.loop.labels.plan import Plan
from app.services.loop.labels.words import Trust

SHOWN = 3


@dataclass(frozen=True, slots=True)
class LabelsPanel:
    """`cost` is that of the usual check. `newest`: the newest one that is done, with the first pairs of its list."""

    job_id: int
    cost: Cost
    checks: list[LabelCheck] = field(default_factory=list)
    newest: LabelCheck | None = None
    trust: list[Trust] = field(default_factory=list)
    items: list[Listing] = field(default_factory=list)


def of_run(session: Session, run: TrainingRun) -> LabelsPanel | None:
    """None for a run that hasn't succeeded."""
    if run.job.state is not JobState.SUCCEEDED:
        return None
    made = checks.of_run(session, job_id=run.job_id)
    done = next((check for check in made if check.result is not None and not checks.is_of_another_start(check)), None)
    told = cost.of_check(session, run=run, plan=Plan())
    if done is None or done.result is None:
        return LabelsPanel(run.job_id, told, made)
    first = pairs.listing(session, check=done, listed=Listed.CONTRADICT, size=SHOWN)
    return LabelsPanel(run.job_id, told, made, done, words.trust(done.result), first.items)
