"""What a worker does when the doorbell rings: claim a job, see it through, and look for the next."""

import threading

import structlog
from celery import Celery
from sqlalchemy import Engine

from app import doorbell
from app.config import Settings
from app.db import write_session
from app.models import Job
from app.services.jobs import leases
from app.storage import get_storage
from worker import devices
from worker.devices import Claim, Device
from worker.kinds import registry
from worker.kinds.kind import Need
from worker.process.supervisor import Supervisor
from worker.pulse import Pulse

log = structlog.get_logger()


class Station:
    """One worker process: its devices, its pulse, and whether it is shutting down."""

    def __init__(self, settings: Settings, engine: Engine, name: str) -> None:
        self.settings, self.engine, self.name = settings, engine, name
        self.devices: list[Device] = devices.find()
        self.pulse = Pulse(settings, engine, name, self.devices)
        self.stopping = threading.Event()

    def work(self) -> None:
        """Do jobs until none waits. A doorbell that rings twice, or for a job that is taken, does nothing."""
        while not self.stopping.is_set() and self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do the oldest job that this worker can do now; False if there is none."""
        needs = {kind: made.need(self.settings) for kind, made in registry.KINDS.items()}
        gpus = devices.claim(self.devices, self.settings.data_dir / "work", every=Need.EVERY_GPU in needs.values())
        try:
            # Where another worker of this machine uses the GPU, jobs that need none still go on.
            possible = [kind for kind, need in needs.items() if gpus is not None or need is Need.NOTHING]
            with write_session(self.engine) as session:
                job = leases.claim(
                    session,
                    worker=self.name,
                    kinds=possible,
                    without_device=list(needs),
                    lease_seconds=self.settings.worker_lease_seconds,
                )
            if job is None:
                return False
            self._do(job, needs[job.kind] if job.needs_device else Need.NOTHING, gpus)
            return True
        finally:
            if gpus is not None:
                gpus.release()

    def _do(self, job: Job, need: Need, gpus: Claim | None) -> None:
        assert job.lease_token is not None
        log.info("job.claimed", job=job.id, kind=job.kind.value, attempt=job.attempts)
        if need is Need.NOTHING and gpus is not None:
            gpus.release()
        environment = devices.NO_GPU if need is Need.NOTHING or gpus is None else gpus.environment()
        self.pulse.hold(job.id, job.lease_token)
        try:
            Supervisor(
                job,
                registry.make(job, self.settings),
                self.settings,
                self.engine,
                get_storage(self.settings),
                self.pulse,
                self.stopping,
                environment,
            ).run()
        finally:
            self.pulse.let_go()


def register(app: Celery, station: Station) -> None:
    """Answer the doorbell with the station's work."""

    @app.task(name=doorbell.TASK, ignore_result=True)
    def work() -> None:
        station.work()
