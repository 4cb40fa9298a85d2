"""A project whose arms have judged pairs, a run on them, and trials whose runs a test ends without training anything."""

import json
import random
from collections.abc import Callable

from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Arm, ArmTrial, ArmTrialRun, Job, Project, Split, TrainingRun
from app.services.collecting import pairs
from app.services.collecting.messages import prompt_hash
from app.services.collecting.pairs import NewPair
from app.services.loop.trials import steps, trials
from app.services.loop.trials.plan import Plan
from app.services.training import runs
from app.storage import get_storage
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.services.training.trained import trained

Figure = Callable[[ArmTrialRun, int], float]  # the margin of a run's eval pair, by its line


class Tried:
    """12 train pairs of the random and of the margin arm each, 10 eval pairs of the random arm and 2 of the other, all judged."""

    def __init__(self, engine: Engine, settings: Settings, factory: Factory) -> None:
        self.engine, self.settings, self.factory = engine, settings, factory
        self.storage = get_storage(settings)
        self.engineer = factory.engineer()
        self.project: Project = factory.project(slug="tone", eval_percent=50)
        wanted = {
            (Split.TRAIN, Arm.RANDOM): 12,
            (Split.TRAIN, Arm.MARGIN): 12,
            (Split.EVAL, Arm.RANDOM): 10,
            (Split.EVAL, Arm.MARGIN): 2,
        }
        new, number = [], 0
        while any(wanted.values()):
            number += 1
            prompt = [{"role": "user", "content": f"What of the thing {number}?"}]
            split = pairs.split_of(prompt_hash(prompt), 50)
            arm = next((arm for arm in (Arm.RANDOM, Arm.MARGIN) if wanted[split, arm]), None)
            if arm is not None:
                wanted[split, arm] -= 1
                new.append(NewPair(prompt, (f"Good of {number}.", f"Bad of {number}."), arm=arm))
        with write_session(engine) as session:
            pairs.add_many(session, project=session.merge(self.project), pairs=new)
        judge = factory.user()
        for _ in new:
            assert factory.judge(self.project, judge)
        self.run: TrainingRun
        self.run, _ = trained(engine, settings, self.project, self.engineer)
        with read_session(engine) as session:
            self.run = runs.get(session, self.run.job_id)

    def begin(self, plan: Plan | None = None) -> ArmTrial:
        with write_session(self.engine) as session:
            row, _ = trials.begin(
                session,
                project=session.merge(self.project),
                run=runs.get(session, self.run.job_id),
                plan=plan or Plan.of(["margin"]),
                by=session.merge(self.engineer),
            )
        return row

    def begin_found(self, number: int) -> ArmTrial:
        """The project's trial of this number."""
        with read_session(self.engine) as session:
            return trials.numbered(session, project=session.merge(self.project, load=False), number=number)

    def advance(self, row: ArmTrial) -> ArmTrial:
        steps.advance(self.engine, self.storage, row.id)
        return self.again(row)

    def again(self, row: ArmTrial) -> ArmTrial:
        with read_session(self.engine) as session:
            return trials.get(session, row.id)

    def made(self, row: ArmTrial) -> list[tuple[ArmTrialRun, Job]]:
        with read_session(self.engine) as session:
            return trials.runs_of(session, trial_id=row.id)

    def train(self, row: ArmTrial, figure: Figure, lines: int = 10) -> None:
        """Ends each of a trial's runs well, with these margins."""
        by_job = {run.job_id: run for run, _ in self.made(row)}
        worker = PretendWorker(self.engine, self.settings)
        for _ in by_job:
            run = by_job[worker.claim().id]
            margins = {
                "lines": list(range(1, lines + 1)),
                "margins": [figure(run, line) for line in range(1, lines + 1)],
            }
            files = {
                "adapter_model.safetensors": b"w",
                "prefloop.json": b"{}",
                "eval_margins.json": json.dumps(margins).encode(),
            }
            worker.publish(files)


def helped(run: ArmTrialRun, line: int) -> float:
    """A run that kept the margin arm's pairs is right on nearly all, one without them on half."""
    drawn = random.Random(f"{run.seed} {run.left_out} {line}").random()
    return 1.0 if drawn < (0.95 if run.left_out is Arm.RANDOM else 0.3) else -1.0
