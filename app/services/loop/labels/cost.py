"""What many runs like a finished one will take: measured on finished runs, or not said at all."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.models import TrainingRun
from app.services.loop.generating.cost import duration
from app.services.loop.labels.plan import Plan
from app.services.training import estimates, runs

FORWARD = 1 / 3  # of a pair's training, whose backward is two more


@dataclass(frozen=True, slots=True)
class Cost:
    """`runs` trainings over `pairs` pairs each, one after the other. `seconds` of one worker is None where no finished run
    tells; `measured` on how many it rests."""

    runs: int
    pairs: int
    seconds: float | None
    measured: int

    @property
    def sentence(self) -> str:
        """For people."""
        what = f"{self.runs} training run{'' if self.runs == 1 else 's'} on {self.pairs:,} pairs{'' if self.runs == 1 else ' each'}"
        if self.seconds is None:
            return f"{what}. No run like them has finished here yet, so nobody knows how long they take."
        of = "the last finished run" if self.measured == 1 else f"the last {self.measured} finished runs"
        return f"{what}: about {duration(self.seconds)} of one worker, as {of} like them took."


def of_check(session: Session, *, run: TrainingRun, plan: Plan) -> Cost:
    """Each fold trains on the others, and each round asks about every pair."""
    pairs = runs.train_pairs(run.snapshot)
    within = round(pairs * (plan.folds - 1) / plan.folds)
    told = estimates.estimate(session, base_model=run.base_model, config=run.config, pairs=within)
    seconds = None
    if told.seconds is not None and told.pairs:
        seconds = told.seconds * plan.runs + told.seconds / told.pairs * FORWARD * pairs * plan.rounds
    return Cost(plan.runs, within, seconds, told.runs)
