"""A label check: a run's snapshot in, each pair's margin by models that weren't trained on it out, and the lists that they make."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import ClassVar

import orjson
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import get_engine, read_session
from app.errors import Conflict
from app.events.types import Event
from app.models import Checkpoint, Job, JobKind, LabelCheck
from app.services.collecting.duplicates import groups
from app.services.datasets import snapshots
from app.services.loop.labels import checks, findings
from app.services.loop.labels.plan import Plan
from app.services.training import base_models, checkpoints, parents
from app.storage import Storage
from worker.kinds.kind import Need, Result

PAGE = 500


class CheckingLabels:
    """A job that checks labels. Its folder holds the pairs, `config.json`, the engine's `out` with the folds that are done, at the end
    the `figures` that are kept, and `parent`: the checkpoint that the run started from, if it did."""

    kind: ClassVar[JobKind] = JobKind.LABEL_CHECK
    program: ClassVar[str] = "label check process"

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self._check: LabelCheck
        self._parent: Checkpoint | None = None

    @staticmethod
    def need(settings: Settings) -> Need:
        """It trains."""
        return Need.ONE_GPU

    def inputs(self, session: Session) -> None:
        """Raises Conflict for a check that an earlier version queued of a run that started from a checkpoint."""
        self._check = checks.get(session, self._job.id)
        if checks.is_of_another_start(self._check):
            raise Conflict(
                f"An earlier version queued this check from the base model, and run {self._check.of_job_id} started from checkpoint "
                f"{self._check.run.parent_id}.",
                "Ask for a check of the run anew.",
            )
        if (parent := parents.for_parts(session, run=self._check.run)) is not None:
            self._parent = checkpoints.get(session, parent.checkpoint_id)

    def command(self, folder: Path, storage: Storage) -> list[str]:
        """Raises InputsBroken for a damaged snapshot, CheckpointBroken for a damaged parent, NotFound for a base model or file that
        isn't there."""
        run, plan = self._check.run, Plan.of(self._check.plan)
        fetched = parents.fetch(storage, self._parent, folder / "parent") if self._parent else None
        model, starting = parents.start(base_models.path(self._settings, run.base_model), fetched)
        data = folder / findings.DATA
        if not data.exists():  # folds that are done were made of this file, whatever became of the groups since
            self._write_data(snapshots.fetch_pairs(storage, run.snapshot, folder)["train.jsonl"], data)
        config = folder / "config.json"
        cache = self._settings.data_dir / "cache" / "reference"
        config.write_text(json.dumps(run.config | {"reference_cache": str(cache)} | starting, indent=1))
        command = [sys.executable, "-m", "worker.dpo", "margins", "--model", str(model), "--data", str(data)]
        command += ["--out", str(folder / "out"), "--config", str(config), "--folds", str(plan.folds)]
        return [*command, "--plantings", str(plan.plantings), "--plant", *map(str, plan.shares)]

    def _write_data(self, pairs: Path, data: Path) -> None:
        """The pairs with the group of each prompt: near duplicates of what a model was trained on aren't held out."""
        part = data.with_suffix(".part")
        with (
            read_session(get_engine(self._settings)) as session,
            pairs.open("rb") as lines,
            part.open("wb") as written,
        ):
            following = map(orjson.loads, lines)
            while page := list(islice(following, PAGE)):
                of_prompt = groups.of_prompts(session, ids=[row["prompt_id"] for row in page])
                for row in page:
                    written.write(orjson.dumps(row | {"group": of_prompt[row["prompt_id"]]}) + b"\n")
        os.replace(part, data)

    def variables(self) -> Sequence[str]:
        return ()

    def secrets(self) -> Mapping[str, str]:
        return {}

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        """Its events and progress are all that there is to keep."""

    def kept(self, folder: Path) -> str:
        done = len(list((folder / "out" / "folds").glob("*.jsonl")))
        of = Plan.of(self._check.plan).runs
        return f"{done} of {of} parts are kept; Retry goes on with the others." if done else ""

    def store_result(self, folder: Path, storage: Storage) -> Result:
        """Files of each attempt go to a place of its own, so that no other attempt can write over them."""
        made = findings.find(
            get_engine(self._settings),
            check=self._check,
            data=folder / findings.DATA,
            out=folder / "out",
            into=folder / "figures",
        )
        token = str(self._job.lease_token)
        files = checks.upload(storage, made.files, prefix=f"label-checks/job-{self._job.id}/{token[:12]}")

        def end(session: Session) -> None:
            checks.publish(session, job_id=self._job.id, files=files, made=made)

        def is_published(session: Session) -> bool:
            return checks.get(session, self._job.id).files == tuple(files)

        return Result(end, is_published, [file.key for file in files])
