"""One worker: a Celery consumer that runs one job at a time, with its pulse beside it.

Celery's solo pool: signals reach the process that supervises, and there is nothing to run side by side in it.
"""

import os
import socket
from typing import Any

import structlog
from celery import Celery, signals

from app import doorbell
from app.config import Settings, get_settings
from app.db import get_engine
from app.ops import logs
from worker.station import Station, register

log = structlog.get_logger()


def make_app(station: Station) -> Celery:
    """The Celery app that answers the doorbell at this station."""
    app = doorbell.make_celery(station.settings)
    register(app, station)
    return app


def run(settings: Settings | None = None) -> int:
    """Work until SIGTERM or SIGINT. A running job is given back to the queue with its training state; returns 0."""
    settings = settings or get_settings()
    logs.configure(settings)
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    station = Station(settings, get_engine(settings), name)
    app = make_app(station)

    def shutting_down(**_: Any) -> None:
        station.stopping.set()

    signals.worker_shutting_down.connect(shutting_down, weak=False)
    log.info("worker.started", name=name, broker=doorbell.describe(settings))
    station.pulse.start()
    try:
        consumer = app.Worker(
            hostname=f"prefloop@{name}", pool="solo", concurrency=1, loglevel=settings.log_level, quiet=True,
            without_gossip=True, without_mingle=True, without_heartbeat=True,
        )  # fmt: skip
        consumer.start()
    finally:
        station.stopping.set()
        station.pulse.end()
    log.info("worker.stopped", name=name)
    return 0
