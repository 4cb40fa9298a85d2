"""A run on an eval split, whose people can be left out; its runs are made without training, with margins that a test knows."""

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.models import PersonRun, PersonStudy, Project, TrainingRun, User
from app.services.datasets import snapshots
from app.services.loop.labels import studies
from app.services.loop.labels.studies import Wanted
from app.services.training import runs
from app.storage import Storage, get_storage
from tests.factory import Factory
from tests.pretend_worker import PretendWorker
from tests.services.training.trained import trained

FILES = {
    "adapter_model.safetensors": b"weights" * 10,
    "adapter_config.json": b"{}",
    "prefloop.json": b"{}",
    "README.md": b"# A run\n",
}


@dataclass
class Studied:
    """Two people judged half of the pairs each."""

    engine: Engine
    settings: Settings
    factory: Factory
    count: int = 40
    project: Project = field(init=False)
    run: TrainingRun = field(init=False)

    def __post_init__(self) -> None:
        self.maker = self.factory.engineer()
        self.project = self.factory.project(by=self.maker, slug="tone", eval_percent=40)
        self.factory.comparisons(self.project, self.count)
        self.ana, self.ben = self.factory.user(username="ana"), self.factory.user(username="ben")
        for number in range(self.count):
            person = self.ben if number % 2 else self.ana
            assert self.factory.judge(self.project, person, "left" if number % 3 else "right")
        self.run, _ = trained(self.engine, self.settings, self.project, self.maker)

    @property
    def storage(self) -> Storage:
        return get_storage(self.settings)

    def begin(self, *people: User, seeds: int = 1) -> PersonStudy:
        wanted = Wanted(tuple(person.id for person in people), seeds)
        return studies.begin(
            self.engine, job_id=self.run.job_id, wanted=wanted, by_id=self.maker.id, storage=self.storage
        )

    def runs_of(self, study: PersonStudy) -> list[PersonRun]:
        with read_session(self.engine) as session:
            return [row for row, _ in studies.progress(session, study_ids=[study.id])[study.id]]

    def lines(self, run: TrainingRun, name: str) -> list[dict[str, Any]]:
        stored = snapshots.file(run.snapshot, name)
        return [json.loads(line) for line in self.storage.read_bytes(stored.key).splitlines()]

    def of_ben(self, comparison_id: int) -> bool:
        """The second person judged every second comparison."""
        return comparison_id % 2 == 0

    def finish(self, study: PersonStudy, *, margins: bool = True) -> None:
        """Every run that waits ends well. Who was left out isn't foreseen any more; everybody else is."""
        without = {row.job_id: row.user_id for row in self.runs_of(study)}
        worker = PretendWorker(self.engine, self.settings)
        for _ in without:
            job = worker.claim()
            with read_session(self.engine) as session:
                run = runs.get(session, job.id)
            rows = self.lines(run, "eval.jsonl")
            lost = without[job.id] == self.ben.id
            told = [-1.0 if lost and self.of_ben(row["comparison_id"]) else 1.0 for row in rows]
            kept = {"eval_margins.json": json.dumps({"lines": list(range(1, len(rows) + 1)), "margins": told}).encode()}
            worker.publish(FILES | (kept if margins else {}))
