"""What the world hears of a job after the commit: the workers' doorbell rings."""

import logging
from dataclasses import dataclass

from sqlalchemy import Engine

from app.db import settings_of, write_session
from app.events import log as events
from app.events.types import Logged

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RingWorkers:
    """A queued job wants a worker.

    A broker that is away fails nothing: the job stays queued, says so in its log, and the sweeper rings again.
    """

    job_id: int

    def carry_out(self, engine: Engine) -> None:
        from app import doorbell  # brings Celery along, which only those need who ring

        settings = settings_of(engine)
        try:
            doorbell.ring(settings)
        except OSError as error:
            log.warning("doorbell.lost", extra={"job": self.job_id, "error": str(error)})
            self._note(engine, doorbell.describe(settings))

    def _note(self, engine: Engine, broker: str) -> None:
        text = f"The message broker {broker} does not answer. The job stays queued until it does, and starts then."
        with write_session(engine) as session:
            events.append(session, job=self.job_id, event=Logged(message=text, level="warning"))
