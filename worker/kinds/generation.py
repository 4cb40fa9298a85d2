"""Generation: sources and prompts in, answers out as they arrive, and pairs of them at the end."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import after_commit, get_engine, read_session, write_session
from app.events.types import Event, Logged
from app.models import Checkpoint, Endpoint, Finish, GenerationPlan, Job, JobKind
from app.services.collecting.messages import Message
from app.services.jobs import leases
from app.services.loop import endpoints, evaluations, generations
from app.services.loop.generating import answers, making, margins, prompts
from app.services.loop.generating.answers import Arrived, Place
from app.services.loop.generating.scoring import Scores
from app.services.loop.generating.wanted import AnswerKind, AnswerSource
from app.services.training import base_models, checkpoints, loading
from app.storage import Storage
from worker.kinds.kind import Need, Result

KEY = "ANSWERS_KEY_"  # and the source's number: the variable in which the program finds its key
ANSWERS, PROMPTS, LINES = "answers.jsonl", "prompts.jsonl", "lines.json"


class Generating:
    """A job that generates. Its folder has one for each source, with the prompts that it is asked and the answers that it gave.

    Answers are stored as they arrive. What stands in the files and wasn't stored, because a worker died, is stored before
    anything is asked.
    """

    kind: ClassVar[JobKind] = JobKind.GENERATION
    program: ClassVar[str] = "generation process"

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self._plan: GenerationPlan
        self._sources: list[AnswerSource] = []
        self._checkpoints: dict[int, Checkpoint] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._keys: dict[str, str] = {}
        self._prompts: dict[int, list[Message]] = {}
        self._known: set[Place] = set()
        self._pairing = False
        self._files: list[AnswerFile] = []
        self._scores: Scores

    @staticmethod
    def need(settings: Settings) -> Need:
        """A model of this machine answers quickest on a GPU; a job that asks endpoints alone says that it needs none."""
        return Need.ONE_GPU

    def inputs(self, session: Session) -> None:
        self._plan = generations.get(session, self._job.id)
        self._sources = generations.sources(self._plan)
        self._prompts = prompts.messages_of(session, ids=generations.prompt_ids(self._plan))
        # Once pairs are being made, what failed stays so: an answer that came now would be in none.
        self._pairing = bool(self._plan.counts.get("paired"))
        self._known = answers.places(session, job_id=self._job.id, given=not self._pairing)
        for number, source in enumerate(self._sources):
            if source.kind is AnswerKind.CHECKPOINT and source.id is not None:
                self._checkpoints[source.id] = checkpoints.get(session, source.id)
            elif source.kind is AnswerKind.ENDPOINT and source.id is not None:
                self._endpoints[number] = endpoints.get(session, source.id)
        self._scores = Scores(session, self._plan, self._prompts)
        if self._scores.wanted and self._scores.checkpoint_id not in self._checkpoints:
            self._checkpoints[self._scores.checkpoint_id] = checkpoints.get(session, self._scores.checkpoint_id)

    def command(self, folder: Path, storage: Storage) -> list[str]:
        """Raises CheckpointBroken for damaged files, NotFound for a base model or file that isn't there."""
        with write_session(get_engine(self._settings)) as session:
            leases.hold(session, job_id=self._job.id, token=str(self._job.lease_token))
            if not self._pairing:
                answers.forget_failed(session, job_id=self._job.id)
        self._files = [AnswerFile(folder / f"source-{number}", number) for number in range(len(self._sources))]
        for file in self._files:
            file.begin()
            self._store_rest(file)
        told = [self._source(number, folder, storage) for number in range(len(self._sources))]
        wanted = len(self._prompts) * len(self._sources) * self._plan.samples
        plan = {"wanted": wanted, "known": wanted - sum(one["missing"] for one in told), "sources": told}
        if self._scores.wanted:
            plan["scoring"] = self._scores.told(folder, self._scoring_model(folder, storage))
        path = folder / "plan.json"
        path.write_text(json.dumps(plan, indent=1))
        return [sys.executable, "-m", "worker.answers", str(path)]

    def _source(self, number: int, folder: Path, storage: Storage) -> dict[str, Any]:
        """What the program is told of a source. Its prompts are those that still lack answers, or those of the attempt
        whose folder this is: an answer's line is a line of that file."""
        source, file = self._sources[number], self._files[number]
        missing = {
            prompt_id: count
            for prompt_id in self._prompts
            if (count := sum((prompt_id, number, at) not in self._known for at in range(self._plan.samples)))
        }
        file.ask([(prompt_id, self._prompts[prompt_id]) for prompt_id in missing])
        told = {"number": number, "title": source.title, "missing": sum(missing.values()), "there": file.count}
        told |= {"data": str(file.prompts), "out": str(file.path), "lines": str(file.lines)}
        if source.kind is AnswerKind.ENDPOINT:
            return told | self._endpoint(number, file)
        return told | self._engine(source, file, folder, storage)

    def _endpoint(self, number: int, file: "AnswerFile") -> dict[str, Any]:
        """Raises EndpointRefused where this worker may not ask it, Unavailable where it has no key."""
        endpoint = self._endpoints[number]
        if key := endpoints.key_of(endpoint, self._settings, os.environ):
            self._keys[f"{KEY}{number}"] = key
        return {
            "kind": "endpoint",
            "base_url": endpoints.checked_url(endpoint.base_url, self._settings),
            "model": endpoint.model,
            "key": f"{KEY}{number}" if key else "",
            "sampling": self._plan.sampling,
            "seconds": self._settings.endpoint_seconds,
            "at_once": endpoint.at_once,
            "requests_per_minute": endpoint.requests_per_minute,
            "questions": [
                (line, sample)
                for line, prompt_id in enumerate(file.ids, 1)
                for sample in range(self._plan.samples)
                if (prompt_id, number, sample) not in self._known
            ],
        }

    def _engine(self, source: AnswerSource, file: "AnswerFile", folder: Path, storage: Storage) -> dict[str, Any]:
        if source.id is None:
            model = ["--model", str(base_models.path(self._settings, source.name))]
        else:
            model = self._checkpoint(self._checkpoints[source.id], folder / f"checkpoint-{source.id}", storage)
        sampling = self._plan.sampling
        drawn = [f"--{name.replace('_', '-')}={value}" for name, value in sampling.items()]
        asked = ["--data", str(file.prompts), "--out", str(file.path), "--samples", str(self._plan.samples)]
        return {"kind": "engine", "arguments": [*model, *asked, *drawn]}

    def _scoring_model(self, folder: Path, storage: Storage) -> list[str]:
        """The engine's arguments for a checkpoint against its base."""
        checkpoint = self._checkpoints[self._scores.checkpoint_id]
        model = self._checkpoint(checkpoint, folder / f"checkpoint-{checkpoint.id}", storage)
        if "--adapter" in model:
            return model
        return ["--model", str(base_models.path(self._settings, checkpoint.run.base_model)), "--policy", model[1]]

    def _checkpoint(self, checkpoint: Checkpoint, folder: Path, storage: Storage) -> list[str]:
        checkpoints.fetch(storage, checkpoint, folder)
        if not loading.is_adapter(checkpoint):
            return ["--model", str(folder)]
        base = base_models.path(self._settings, checkpoint.run.base_model)
        return ["--model", str(base), "--adapter", str(folder)]

    def variables(self) -> Sequence[str]:
        return ()

    def secrets(self) -> Mapping[str, str]:
        return self._keys

    def record(self, session: Session, printed: Sequence[Event]) -> None:
        """Store the answers that arrived since. Before `command` there is nothing to go by: it stores what is in the files."""
        for file in self._files:
            if batch := file.new():
                answers.store(session, job_id=self._job.id, arrived=batch.arrived)
                after_commit(session, batch)
        took = [event.more for event in printed if isinstance(event, Logged) and "source" in event.more]
        if took:
            making.note_speed(session, job_id=self._job.id, took=took)

    def kept(self, folder: Path) -> str:
        count = sum(file.count for file in self._files)
        return f"{count:,} answers that arrived are kept; Retry asks for the others alone." if count else ""

    def store_result(self, folder: Path, storage: Storage) -> Result:
        """Store the answers that are left, and make the pairs, in short transactions under the job's lease."""
        for file in self._files:
            self._store_rest(file)
        engine = get_engine(self._settings)
        token = str(self._job.lease_token)
        making.note_missing(engine, job_id=self._job.id, token=token)
        if self._scores.wanted:
            margins.note(engine, job_id=self._job.id, token=token, rewards=self._scores.read(folder))
        making.pair(engine, job_id=self._job.id, token=token)
        with read_session(engine) as session:
            counts = making.tally(session, job_id=self._job.id)

        def end(session: Session) -> None:
            making.note(session, job_id=self._job.id, **counts)
            if self._plan.evaluation_id is not None:
                evaluations.seed(session, evaluation_id=self._plan.evaluation_id)

        return Result(end, lambda session: True)

    def _store_rest(self, file: "AnswerFile") -> None:
        """Outside of any session: what is in the file and isn't stored, some at a time."""
        while batch := file.new():
            with write_session(get_engine(self._settings)) as session:
                leases.hold(session, job_id=self._job.id, token=str(self._job.lease_token))
                answers.store(session, job_id=self._job.id, arrived=batch.arrived)
                after_commit(session, batch)
            self._known |= {one.place for one in batch.arrived}


@dataclass(frozen=True, eq=False)
class Batch:
    """Answers of a file, up to byte `end`. Once they are stored the next look begins there."""

    file: "AnswerFile"
    arrived: list[Arrived]
    end: int

    def carry_out(self, engine: Engine) -> None:
        self.file.offset = self.end
        self.file.count += len(self.arrived)


class AnswerFile:
    """A source's folder: its prompts, which prompt each line of them is, and its answers as the program writes them."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number
        self.path, self.prompts, self.lines = folder / ANSWERS, folder / PROMPTS, folder / LINES
        self.count, self.offset = 0, 0  # what is stored: answers, and bytes
        self.ids: list[int] = []

    def begin(self) -> None:
        """Take up what an earlier attempt left here; a folder that is half made is made anew."""
        try:
            self.ids = json.loads(self.lines.read_text())
        except (OSError, ValueError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        with suppress(FileNotFoundError):
            lines = self.path.read_bytes().splitlines(keepends=True)
            # What failed is asked for again. A line without an end, of a full disk, would swallow the next one.
            given = [line for line in lines if line.endswith(b"\n") and self._is_given(line)]
            if len(given) < len(lines):
                part = self.path.with_suffix(".part")
                part.write_bytes(b"".join(given))
                part.replace(self.path)

    def ask(self, messages: Sequence[tuple[int, list[Message]]]) -> None:
        """Write the prompts, unless an attempt has begun with its own."""
        if self.ids:
            return
        with self.prompts.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"prompt": one}, ensure_ascii=False) + "\n" for _, one in messages)
        self.ids = [prompt_id for prompt_id, _ in messages]
        part = self.lines.with_suffix(".part")
        part.write_text(json.dumps(self.ids))
        part.replace(self.lines)

    def new(self) -> Batch | None:
        """The answers of the whole lines that were written since, as many as one transaction stores; None if there is none."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                lines = list(islice(file, answers.STORED_AT_ONCE))
        except FileNotFoundError:
            return None
        whole = [line for line in lines if line.endswith(b"\n")]
        arrived = [one for line in whole if (one := self._answer(line))]
        return Batch(self, arrived, self.offset + sum(map(len, whole))) if whole else None

    def _is_given(self, line: bytes) -> bool:
        answer = self._answer(line)
        return answer is not None and answer.finish is not Finish.FAILED

    def _answer(self, line: bytes) -> Arrived | None:
        try:
            told = json.loads(line)
            prompt_id, finish = self.ids[told["line"] - 1], Finish(told["finish"])
            text, tokens, read = told["completion"], told["tokens"], told.get("prompt_tokens")
            return Arrived(prompt_id, self.number, told["sample"], told["seed"], text, finish, tokens, read)
        except (ValueError, KeyError, TypeError, IndexError):
            return None
