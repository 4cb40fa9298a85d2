"""The web server looks for lost jobs too: when the last worker has died, nobody else can say that its job is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog
from sqlalchemy import Engine

from app.config import Settings
from app.db import write_session
from app.ops import prune
from app.services.datasets import members
from app.services.jobs import leases
from app.services.loop import batches, verdicts
from app.services.loop.labels import learned
from app.services.loop.removal import imports, projects
from app.services.loop.rounding import steps
from app.services.loop.trials import steps as trial_steps
from app.storage import get_storage

log = structlog.get_logger()


def sweep(settings: Settings, engine: Engine) -> None:
    """Free the jobs of silent workers, once."""
    with write_session(engine) as session:
        lost = leases.sweep(session, attempts=settings.job_attempts)
    for one in lost:
        log.warning("job.lost", job=one.job_id, state=one.state.value)


def go_on(settings: Settings, engine: Engine) -> None:
    """Finish what a process that died had begun to undo or to delete, and look through snapshots of an earlier version."""
    undone = imports.go_on(engine)
    deleted = projects.go_on(engine, get_storage(settings))
    indexed = members.index_older(engine, get_storage(settings))
    if undone or deleted or indexed:
        log.info("removal.finished", exclusions=undone, projects=deleted, snapshots=indexed)


def _settle(_settings: Settings, engine: Engine) -> None:
    """Count what people said in evaluations that ask, and end those that are decided: no judgment waits for that."""
    for evaluation_id in batches.settle_all(engine):
        log.info("evaluation.ended", evaluation=evaluation_id)
        verdicts.current(engine, evaluation_id)  # so that its card and archive have it before anybody opens its page


def _evaluate(_settings: Settings, engine: Engine) -> None:
    """Start the evaluations that workers which were killed at the end of a run didn't start."""
    for made in batches.start_missed(engine):
        log.info("evaluation.started", evaluation=made.id)


def _compare(settings: Settings, engine: Engine) -> None:
    """Compare the runs of studies of people, once all of them are done."""
    for study_id in learned.settle_all(engine, get_storage(settings)):
        log.info("study.compared", study=study_id)


def _prune_daily(settings: Settings, _engine: Engine) -> None:
    if not prune.is_due(settings):
        return
    for one in prune.prune(settings):
        if one.count:
            log.info("pruned", what=one.what, count=one.count, bytes=one.bytes)


class Rounds:
    """Knows when a round comes far later than it should: the machine slept, and its workers did too. They say that they
    live as soon as they are awake, so whoever looks first must not take their jobs."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        # Not the monotonic clock, which stands still on Linux while the machine sleeps.
        self._clock, self._latest = clock, clock()
        self._longest = settings.sweep_seconds + settings.worker_lease_seconds / 2

    def was_asleep(self) -> bool:
        """Whether this round is to be skipped. Asked once a round."""
        before, self._latest = self._latest, self._clock()
        overslept = self._latest - before > self._longest
        if overslept:
            log.warning("sweep.skipped", seconds=round(self._latest - before))
        return overslept


@asynccontextmanager
async def sweeping(settings: Settings, engine: Engine) -> AsyncIterator[None]:
    """Sweeps again and again until the block ends. Rounds are carried on beside it: freezing a large project takes its time."""
    tasks = [asyncio.create_task(forever(settings, engine)) for forever in (_sweep_forever, _carry_on_forever)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _carry_on_forever(settings: Settings, engine: Engine) -> None:
    storage = get_storage(settings)
    while True:
        await asyncio.sleep(settings.sweep_seconds)
        try:
            await asyncio.to_thread(steps.advance_all, engine, storage)
            await asyncio.to_thread(trial_steps.advance_all, engine, storage)
        except Exception as error:  # a database that is away comes back
            log.warning("round.missed", error=str(error))


async def _sweep_forever(settings: Settings, engine: Engine) -> None:
    rounds = Rounds(settings)
    while True:
        await asyncio.sleep(settings.sweep_seconds)
        if rounds.was_asleep():
            continue
        for act in (sweep, go_on, _settle, _evaluate, _compare, _prune_daily):
            try:
                await asyncio.to_thread(act, settings, engine)
            except (
                Exception
            ) as error:  # a database that is away comes back, and what one can't do keeps no other from its own
                log.warning("sweep.missed", act=act.__name__, error=str(error))
