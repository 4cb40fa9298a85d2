"""What a worker does when the doorbell rings: claim a job, see it through, and look for the next."""

import threading

import structlog
from celery import Celery
from sqlalchemy import Engine

from app import doorbell
from app.config import Settings
from app.db import write_session
from app.services.jobs import leases
from app.storage import get_storage
from worker import devices
from worker.devices import Device
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
        """Run jobs until none waits. A doorbell that rings twice, or for a job that is taken, does nothing."""
        while not self.stopping.is_set() and self._work_once():
            pass

    def _work_once(self) -> bool:
        claimed = devices.claim(
            self.devices, self.settings.data_dir / "work", every=bool(self.settings.train_launcher.strip())
        )
        if claimed is None:
            return False  # another worker of this machine uses the device
        try:
            with write_session(self.engine) as session:
                job = leases.claim(session, worker=self.name, lease_seconds=self.settings.worker_lease_seconds)
            if job is None or job.lease_token is None:
                return False
            log.info("job.claimed", job=job.id, attempt=job.attempts)
            self.pulse.hold(job.id, job.lease_token)
            try:
                Supervisor(
                    job,
                    self.settings,
                    self.engine,
                    get_storage(self.settings),
                    self.pulse,
                    self.stopping,
                    claimed.environment(),
                ).run()
            finally:
                self.pulse.let_go()
            return True
        finally:
            claimed.release()


def register(app: Celery, station: Station) -> None:
    """Answer the doorbell with the station's work."""

    @app.task(name=doorbell.TASK, ignore_result=True)
    def train() -> None:
        station.work()
