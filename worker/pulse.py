"""The worker's pulse: says that it lives, keeps its job's lease, and looks for lost jobs and lost doorbells."""

import threading
import time
from contextlib import suppress

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app import __version__, doorbell
from app.config import Settings
from app.db import read_session, write_session
from app.ops import sweeper
from app.services.jobs import leases, waiting, workers
from app.services.jobs.leases import LeaseLost
from worker import devices
from worker.devices import Device
from worker.kinds import registry

log = structlog.get_logger()


class Pulse:
    """A thread beside the work, so that a long upload or a slow disk does not look like death."""

    def __init__(self, settings: Settings, engine: Engine, name: str, own: list[Device]) -> None:
        self._settings, self._engine, self.name, self._devices = settings, engine, name, own
        self._held: tuple[int, str] | None = None
        self._held_until = 0.0
        self.lost = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat_until_ended, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()
        threading.Thread(target=self._measure, name="measure", daemon=True).start()

    def end(self) -> None:
        """Stop and take this worker off the list."""
        self._ended.set()
        self._thread.join(10)
        with suppress(SQLAlchemyError), write_session(self._engine) as session:
            workers.leave(session, name=self.name)

    def hold(self, job_id: int, token: str) -> None:
        """Keep this job's lease from now on."""
        self.lost.clear()
        self._held, self._held_until = (job_id, token), time.monotonic() + self._settings.worker_lease_seconds

    def let_go(self) -> None:
        self._held = None

    @property
    def has_lease(self) -> bool:
        """Whether the lease surely still holds, as far as this worker could tell the database."""
        return not self.lost.is_set() and time.monotonic() < self._held_until

    def _beat_until_ended(self) -> None:
        self._register()
        next_sweep = time.monotonic() + self._settings.sweep_seconds
        rounds = sweeper.Rounds(self._settings)
        while not self._ended.wait(min(self._settings.heartbeat_seconds, self._settings.sweep_seconds)):
            try:
                self.beat()
                if time.monotonic() >= next_sweep:
                    next_sweep = time.monotonic() + self._settings.sweep_seconds
                    if not rounds.was_asleep():
                        self.sweep()
            except Exception as error:  # a database or broker that is away comes back
                log.warning("pulse.missed", error=str(error))

    def _measure(self) -> None:
        """Say how fast this device multiplies, once it is known: the form of a run warns of what is slow here."""
        if (rates := devices.measure_products(self._devices)) and not self._ended.is_set():
            with suppress(SQLAlchemyError), write_session(self._engine) as session:
                workers.measured(session, name=self.name, product_gflops=rates)

    def _register(self) -> None:
        try:
            with write_session(self._engine) as session:
                workers.register(
                    session,
                    name=self.name,
                    device=devices.describe(self._devices),
                    memory_bytes=sum(device.memory_bytes for device in self._devices),
                    version=__version__,
                    kinds=registry.KINDS,
                    versions=devices.versions(),
                    product_gflops=devices.product_rates(self._devices),
                )
        except SQLAlchemyError as error:
            log.warning("worker.not_registered", error=str(error))

    def beat(self) -> None:
        """One sign of life, and the lease of the job at hand extended."""
        held, before = self._held, time.monotonic()
        with write_session(self._engine) as session:
            known = workers.heartbeat(session, name=self.name)
        if not known:
            self._register()
        if held is None:
            return
        seconds = self._settings.worker_lease_seconds
        try:
            with write_session(self._engine) as session:
                leases.heartbeat(session, job_id=held[0], token=held[1], lease_seconds=seconds)
            self._held_until = before + seconds
        except LeaseLost:
            if self._held == held:  # it isn't just that the job ended meanwhile
                self.lost.set()

    def sweep(self) -> None:
        """Free the jobs of silent workers; ring for jobs that wait while this worker has nothing to do."""
        sweeper.sweep(self._settings, self._engine)
        if self._held is not None:
            return  # whoever has a job at hand takes the next one by itself; ringing would only pile up messages
        with read_session(self._engine) as session:
            queued = waiting.count(session, kinds=registry.KINDS)
        if queued:
            doorbell.ring(self._settings)
