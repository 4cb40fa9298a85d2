"""A run's page, kept up to date: chart points as events for charts.js, everything else as the blocks of the page.

A message's `id` is that of the newest JobEvent in it. It stands on the last part of a message, so that a connection
that breaks in the middle asks for the whole again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

import orjson
from fastapi import Request
from sqlalchemy import Engine

from app.config import Settings
from app.db import read_session
from app.events import wire
from app.models import EventType, JobEvent, JobState
from app.routes.training import run_page
from app.services.training import history, runs
from app.web.sse import feed_of
from app.web.templating import render

KEPT_MESSAGES = 64
AGAIN_SECONDS = 2.0  # until a browser opens a stream anew that broke, or asks once more for what is there
BLOCKS = {
    "run_samples": {EventType.SAMPLE},
    "run_numbers": {EventType.STEP, EventType.EVAL},
    "run_lacks": {EventType.STEP},
    "run_log": history.IN_LOG,
}


class Told:
    """Messages that were rendered lately: a thousand pages that follow one run cost one rendering a tick."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[tuple[int, ...], asyncio.Task[bytes]] = OrderedDict()

    async def once(self, key: tuple[int, ...], make: Callable[[], bytes]) -> bytes:
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._tasks[key] = asyncio.create_task(asyncio.to_thread(make))
            while len(self._tasks) > KEPT_MESSAGES:
                self._tasks.popitem(last=False)
        return await asyncio.shield(task)


async def messages(
    request: Request, *, job_id: int, after: int, wait: bool, engine: Engine, settings: Settings
) -> AsyncIterator[bytes]:
    """Server-sent events until the run is over, then `end`. Without `wait` only those that are there: the browser comes
    again for the next."""
    told = _told_of(request)
    over = True
    yield wire.come_again(AGAIN_SECONDS)  # the answer's head goes out with it, and the page then says that it is live
    async for rows in feed_of(request.app).watch(job_id, after, wait=wait):
        over = bool(rows)
        if rows:
            key = (job_id, rows[0].id, rows[-1].id)
            yield await told.once(key, lambda rows=rows: _message(request, job_id, rows, engine, settings))  # type: ignore[misc]
        else:
            tick = int(asyncio.get_running_loop().time() / settings.stream_ping_seconds)
            yield await told.once((job_id, -1, tick), lambda: _ping(request, job_id, engine, settings))
    if wait or over:
        yield wire.message("", event="end")


def _told_of(request: Request) -> Told:
    state = request.app.state
    if not hasattr(state, "told"):
        state.told = Told()
    return state.told


def _message(request: Request, job_id: int, rows: list[JobEvent], engine: Engine, settings: Settings) -> bytes:
    types = {row.type for row in rows}
    with read_session(engine) as session:
        run = runs.get(session, job_id)
        shown = run_page.live(session, run=run, settings=settings, types=types)
        points = history.points(rows)
    changed = ["run_status", "run_outcome", *(block for block, own in BLOCKS.items() if own & types)]
    html = "".join(_partial(request, block, shown) for block in changed)
    first = wire.message(orjson.dumps(points).decode(), event="points") if points else b""
    return first + wire.message(html, id=rows[-1].id)


def _ping(request: Request, job_id: int, engine: Engine, settings: Settings) -> bytes:
    """Nothing happened; but for a queued run the workers may have come or gone, which isn't an event of the run."""
    with read_session(engine) as session:
        run = runs.get(session, job_id)
        if run.job.state is not JobState.QUEUED:
            return wire.PING
        shown = run_page.live(session, run=run, settings=settings, types=set())
    return wire.message(_partial(request, "run_status", shown) + _partial(request, "run_outcome", shown))


def _partial(request: Request, block: str, shown: run_page.Live) -> str:
    html = bytes(render(request, "training/jobs/show.html", shown, block=block).make().body).decode()
    return f'<hx-partial hx-target="#{block.replace("_", "-")}" hx-swap="innerMorph">{html}</hx-partial>'
