"""The web server looks for lost jobs too: when the last worker has died, nobody else can say that its job is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog
from sqlalchemy import Engine

from app.config import Settings
from app.db import write_session
from app.services.jobs import leases

log = structlog.get_logger()


def sweep(settings: Settings, engine: Engine) -> None:
    """Free the jobs of silent workers, once."""
    with write_session(engine) as session:
        lost = leases.sweep(session, attempts=settings.job_attempts)
    for one in lost:
        log.warning("job.lost", job=one.job_id, state=one.state.value)


@asynccontextmanager
async def sweeping(settings: Settings, engine: Engine) -> AsyncIterator[None]:
    """Sweeps again and again until the block ends."""
    task = asyncio.create_task(_sweep_forever(settings, engine))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _sweep_forever(settings: Settings, engine: Engine) -> None:
    while True:
        await asyncio.sleep(settings.sweep_seconds)
        try:
            await asyncio.to_thread(sweep, settings, engine)
        except Exception as error:  # a database that is away comes back
            log.warning("sweep.missed", error=str(error))
