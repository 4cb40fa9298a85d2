"""A finished label check without an engine: its files are written as the engine would, with margins that a test knows."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import JobKind, LabelCheck, Project, TrainingRun, User
from app.services.datasets import snapshots
from app.services.jobs import leases
from app.services.loop.labels import checks, findings
from app.services.loop.labels.plan import Plan
from app.services.training import runs
from app.storage import Storage, get_storage
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.services.training.trained import trained

PLAN = Plan(folds=2, shares=(0.1, 0.2), plantings=1)


@dataclass
class Checked:
    """Two people who judged half of the pairs each; models contradict every fourth vote of the second one."""

    engine: Engine
    settings: Settings
    factory: Factory
    folder: Path
    count: int = 40
    project: Project = field(init=False)
    people: list[User] = field(init=False)
    run: TrainingRun = field(init=False)

    def __post_init__(self) -> None:
        self.maker = self.factory.engineer()
        self.project = self.factory.project(by=self.maker, slug="tone", eval_percent=0)
        self.factory.comparisons(self.project, self.count)
        self.people = [self.factory.user(username="ana"), self.factory.user(username="ben")]
        for number in range(self.count):
            person = self.people[number >= self.count // 2]
            assert self.factory.judge(self.project, person, "left" if number % 2 else "right")
        self.run, _ = trained(self.engine, self.settings, self.project, self.maker)

    @property
    def storage(self) -> Storage:
        return get_storage(self.settings)

    def begin(self, plan: Plan = PLAN) -> LabelCheck:
        with write_session(self.engine) as session:
            run = runs.get(session, self.run.job_id)
            return checks.begin(session, run=run, plan=plan, by=session.merge(self.maker))

    def lines(self) -> list[dict[str, Any]]:
        stored = snapshots.file(self.run.snapshot, "train.jsonl")
        return [json.loads(line) for line in self.storage.read_bytes(stored.key).splitlines()]

    def margin(self, line: int) -> float:
        """Of the labels as they are: a fourth of the second person's are contradicted, the later the more."""
        return -0.1 * line if line > self.count // 2 and line % 4 == 0 else 1.0

    def write(self, margin: Callable[[int], float] | None = None) -> Path:
        """What the engine leaves of a check; returns its folder. A planted flip turns the margin around."""
        margin = margin or self.margin
        out = self.folder / "out"
        out.mkdir(parents=True, exist_ok=True)
        lines = self.lines()
        (self.folder / findings.DATA).write_text("".join(json.dumps(line) + "\n" for line in lines))
        for number, share in enumerate((0.0, *PLAN.shares)):
            flipped = set(Random(number).sample(range(1, len(lines) + 1), round(share * len(lines))))
            rows = []
            for line in range(1, len(lines) + 1):
                sign = -20 if line in flipped else 1
                row = {"line": line, "pair": 0, "fold": line % 2, "margin": sign * margin(line), "on_policy_gap": -line}
                row |= {"flipped": line in flipped} if number else {"ches": line, "ches_normalised": line / 1000}
                rows.append(row)
            name = f"planted-{number}.jsonl" if number else findings.MARGINS
            (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return out

    def finish(self, check: LabelCheck, margin: Callable[[int], float] | None = None) -> LabelCheck:
        """The check's job ended well, with what the engine would have left."""
        worker = PretendWorker(self.engine, self.settings, "checks-labels", kinds=(JobKind.LABEL_CHECK,))
        worker.claim()
        out = self.write(margin)
        told = findings.find(
            self.engine, check=check, data=self.folder / findings.DATA, out=out, into=self.folder / "figures"
        )
        files = checks.upload(self.storage, told.files, prefix=f"label-checks/job-{check.job_id}/test")
        with write_session(self.engine) as session:
            checks.publish(session, job_id=check.job_id, files=files, made=told)
            leases.succeed(session, job_id=check.job_id, token=worker.token)
        with read_session(self.engine) as session:
            return checks.get(session, check.job_id)
