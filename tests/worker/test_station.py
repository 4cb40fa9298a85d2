"""A worker's station: which jobs it takes with the devices at hand, and what their processes may use."""

from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session, write_session
from app.models import Job, JobKind, JobState
from app.services.jobs import jobs
from tests.factory import Factory
from worker import devices
from worker.devices import Device
from worker.kinds import registry
from worker.kinds.kind import Need
from worker.kinds.training import Training
from worker.station import Station

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
GPU = Device("GPU", 1, gpu="GPU-a")


class OnTheProcessor(Training):
    """A kind that needs no GPU."""

    kind: ClassVar[JobKind] = JobKind.EXPORT

    @staticmethod
    def need(settings: Settings) -> Need:
        return Need.NOTHING


class Noted:
    """In the supervisor's place: ends the job, and notes which one it was and its process's environment."""

    did: ClassVar[list[tuple[JobKind, dict[str, str]]]] = []

    def __init__(self, job: Job, *_: object) -> None:
        self.job, self.environment = job, _[-1]

    def run(self) -> None:
        self.did.append((self.job.kind, self.environment))  # type: ignore[arg-type]


@pytest.fixture
def station(
    engine: Engine, settings: Settings, factory: Factory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Station:
    """At a machine with one GPU, with a queued run and a queued job that needs no GPU."""
    monkeypatch.setattr(devices, "find", lambda: [GPU])
    monkeypatch.setattr(registry, "KINDS", {JobKind.TRAINING: Training, JobKind.EXPORT: OnTheProcessor})
    monkeypatch.setattr("worker.station.Supervisor", Noted)
    monkeypatch.setattr(Noted, "did", [])
    project = factory.project()
    with write_session(engine) as session:
        for kind in (JobKind.TRAINING, JobKind.EXPORT):
            jobs.queue(session, kind=kind, project_id=project.id, by=None)
    return Station(settings, engine, "w")


def test_each_job_sees_the_devices_that_its_kind_needs(station: Station) -> None:
    station.work()
    assert Noted.did == [
        (JobKind.TRAINING, {"CUDA_VISIBLE_DEVICES": "GPU-a"}),
        (JobKind.EXPORT, {"CUDA_VISIBLE_DEVICES": ""}),
    ]


def test_busy_gpu_holds_up_only_the_jobs_that_need_it(station: Station, engine: Engine, settings: Settings) -> None:
    other = devices.claim([GPU], settings.data_dir / "work", every=False)
    assert other is not None
    station.work()
    assert Noted.did == [(JobKind.EXPORT, {"CUDA_VISIBLE_DEVICES": ""})]
    with read_session(engine) as session:
        assert [job.state for job in jobs.listing(session, kind=JobKind.TRAINING).items] == [JobState.QUEUED]
    other.release()
    station.work()
    assert [kind for kind, _ in Noted.did] == [JobKind.EXPORT, JobKind.TRAINING]


def test_worker_that_shuts_down_takes_no_more_jobs(station: Station) -> None:
    station.stopping.set()
    station.work()
    assert Noted.did == []


def test_a_job_that_only_asks_others_sees_no_gpu_and_waits_for_none(
    station: Station, engine: Engine, settings: Settings, factory: Factory
) -> None:
    project = factory.project()
    with write_session(engine) as session:
        jobs.queue(session, kind=JobKind.TRAINING, project_id=project.id, by=None, needs_device=False)
    other = devices.claim([GPU], settings.data_dir / "work", every=False)
    assert other is not None
    station.work()
    assert Noted.did == [
        (JobKind.EXPORT, {"CUDA_VISIBLE_DEVICES": ""}),
        (JobKind.TRAINING, {"CUDA_VISIBLE_DEVICES": ""}),
    ]
    other.release()
    station.work()
    assert Noted.did[2:] == [(JobKind.TRAINING, {"CUDA_VISIBLE_DEVICES": "GPU-a"})]
