"""Real workers for the tests of the job path: processes that are started, watched, killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, select

from app.config import Settings
from app.db import get_engine, read_session, write_session
from app.models import FINISHED, Job, JobEvent, JobState, Snapshot, TrainingRun, User
from app.services.jobs import jobs
from app.services.training import runs
from worker.process.folder import WorkFolder

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 120
QUICK = {
    "max_steps": 3,
    "batch_size": 4,
    "lora_r": 2,
    "eval_steps": 2,
    "sample_prompts": 1,
    "sample_tokens": 4,
    "report_to": [],
}
# Far more steps than a test waits for: it does its mischief somewhere in the middle.
ENDLESS = QUICK | {"max_steps": 20_000, "eval_steps": 20_000, "save_steps": 5, "sample_prompts": 0}


class Workers:
    """Starts `python -m worker` with the test's settings, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str = "worker-1", **environment: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PREFLOOP_WORKER_NAME": name, "OMP_NUM_THREADS": "1"} | environment,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-4000:]}" for path in sorted(self._folder.glob("*.log")))

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._started:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Watcher:
    """What a person sees of a job while it runs."""

    def __init__(self, engine: Engine, workers: Workers) -> None:
        self.engine, self.workers = engine, workers

    def job(self, job_id: int) -> Job:
        with read_session(self.engine) as session:
            return jobs.get(session, job_id)

    def run(self, job_id: int) -> TrainingRun:
        with read_session(self.engine) as session:
            return runs.get(session, job_id)

    def events(self, job_id: int, kind: str | None = None) -> list[JobEvent]:
        with read_session(self.engine) as session:
            rows = session.scalars(select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id)).all()
        return [row for row in rows if kind in (None, row.type)]

    def states(self, job_id: int) -> list[str]:
        return [row.data["state"] for row in self.events(job_id, "state") if "state" in row.data]

    def until(self, what: str, happened: Callable[[], bool], patience: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + patience
        while not happened():
            assert time.monotonic() < deadline, f"It did not happen that {what}.\n{self.workers.logs()}"
            time.sleep(0.1)

    def until_over(self, job_id: int, patience: float = PATIENCE_SECONDS) -> Job:
        self.until(f"job {job_id} ended", lambda: self.job(job_id).state in FINISHED, patience)
        return self.job(job_id)

    def until_gone(self, folder: Path) -> None:
        """A worker removes a job's folder after it told the job's end."""
        self.until(f"{folder.name} was removed", lambda: not folder.exists())

    def until_training(self, job_id: int, step: int = 1) -> Job:
        self.until(
            f"job {job_id} took step {step}",
            lambda: self.job(job_id).step >= step or self.job(job_id).state in FINISHED,
        )
        job = self.job(job_id)
        assert job.state is JobState.RUNNING, f"{job.error}\n{self.workers.logs()}"
        return job


def queue_job(engine: Engine, snapshot: Snapshot, by: User, **config: object) -> Job:
    """A queued job for the tiny model."""
    with write_session(engine) as session:
        return runs.create(
            session,
            snapshot=session.merge(snapshot),
            base_model="tiny",
            config={**QUICK, **config},
            by=session.merge(by),
        ).job


def folder_of(settings: Settings, job_id: int) -> Path:
    """The job's work folder."""
    with read_session(get_engine(settings)) as session:
        return WorkFolder(settings.data_dir / "work", job_id, jobs.get(session, job_id).uid).path


def training_pid(settings: Settings, job_id: int) -> int:
    """The process that trains a job, as its worker wrote it down."""
    return int((folder_of(settings, job_id) / "lock").read_text())


def saved_steps(settings: Settings, job_id: int) -> list[int]:
    """The steps of the whole training states in a job's folder."""
    folder = folder_of(settings, job_id) / "out" / "state"
    return sorted(int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"step-(\d+)", path.name)))


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
