"""A job's events: appended by services, streamed to pages. The only code that knows about server-sent events.

A stream first gets the rows after the id that it last saw, then what comes. One poller a process looks for new rows of
all watched jobs with one query a tick; Redis, where there is one, only says "look again". Nothing here holds a
database connection while it waits.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
import redis
import redis.asyncio
import structlog
from sqlalchemy import Engine, and_, or_, select
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import after_commit, read_session, settings_of
from app.models import FINISHED, Job, JobEvent
from app.models.base import now as utc_now

if TYPE_CHECKING:
    from fastapi import FastAPI

log = structlog.get_logger()

PAGE = 500
CHANNEL = "prefloop:job-events"
REDIS_IDLE_SECONDS = 5.0  # with Redis awake, a lost wake-up costs no more than this
REDIS_PAUSE_SECONDS = 10.0
JOBS_PER_QUERY = 200


def append(
    session: Session,
    *,
    job: Job | int,
    type: str,
    data: dict[str, Any],
    step: int | None = None,
    now: datetime | None = None,
) -> JobEvent:
    """Add one event to a job's history."""
    return append_all(session, job=job, events=[(type, step, data)], now=now)[0]


def append_all(
    session: Session,
    *,
    job: Job | int,
    events: Sequence[tuple[str, int | None, dict[str, Any]]],
    now: datetime | None = None,
) -> list[JobEvent]:
    """Add (type, step, data) events in order. After the commit the pages that watch the job hear of them."""
    job_id = job if isinstance(job, int) else job.id
    # Ids are drawn before they are committed: with the job's row locked, no reader sees a later id of it first.
    session.execute(select(Job.id).where(Job.id == job_id).with_for_update())
    rows = [
        JobEvent(job_id=job_id, type=kind, step=step, data=data, created_at=now or utc_now())
        for kind, step, data in events
    ]
    for row in rows:
        session.add(row)
        session.flush()
    after_commit(session, WakePages(job_id))
    return rows


def after(session: Session, *, job_id: int, after: int = 0, limit: int = PAGE) -> list[JobEvent]:
    """The job's events with an id above `after`, oldest first, at most `limit`."""
    rows = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after).order_by(JobEvent.id).limit(limit)
    return list(session.scalars(rows))


def last(session: Session, *, job_id: int) -> JobEvent | None:
    return session.scalars(
        select(JobEvent).where(JobEvent.job_id == job_id).order_by(JobEvent.id.desc()).limit(1)
    ).first()


def is_end(event: JobEvent | None) -> bool:
    """Whether this event says that the job is over."""
    return event is not None and event.type == "state" and event.data.get("state") in FINISHED


def as_json(event: JobEvent) -> dict[str, Any]:
    """The event as scripts see it: what the engine printed, with the id to go on from."""
    head = {"id": event.id, "event": event.type, "step": event.step, "time": event.created_at.timestamp()}
    return head | {key: value for key, value in event.data.items() if key not in ("id", "event", "step")}


def sse(event: JobEvent) -> bytes:
    """One event as a server-sent event: its id, its type, its JSON."""
    return message(orjson.dumps(as_json(event)).decode(), id=event.id, event=event.type)


def message(data: str, *, id: int | None = None, event: str | None = None) -> bytes:
    """Any text as a server-sent event."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {event}\n" if event else "")
    body = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"{head}{body}\n".encode()


def parse_id(text: str | None, *, default: int) -> int:
    """The id of a Last-Event-ID header; one that isn't ours counts as none."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else default


PING = b": ping\n\n"


async def stream(feed: "Feed", *, job_id: int, after: int = 0) -> AsyncIterator[bytes]:
    """A job's events as server-sent events, with a ping where there is silence, until the job is over."""
    async for rows in feed.watch(job_id, after):
        yield b"".join(map(sse, rows)) if rows else PING


@lru_cache
def _redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)


_silent_until: dict[str, float] = {}


def wake(settings: Settings, job_id: int) -> None:
    """Tell the web processes that a job has new events. Without Redis it does nothing."""
    url = settings.redis
    if url is None or time.monotonic() < _silent_until.get(url, 0):
        return
    try:
        _redis(url).publish(CHANNEL, str(job_id))
    except redis.RedisError as error:
        _silent_until[url] = time.monotonic() + REDIS_PAUSE_SECONDS
        log.warning("redis.wake_failed", error=str(error), consequence="pages look for events by themselves")


@dataclass(frozen=True, slots=True)
class WakePages:
    """The wish that every event brings along: the pages that watch its job look again."""

    job_id: int

    def carry_out(self, engine: Engine) -> None:
        wake(settings_of(engine), self.job_id)


@dataclass(eq=False)
class _Watched:
    """A job that somebody watches: its newest events, and up to which id they are complete."""

    streams: int = 0
    floor: int | None = None  # `recent` holds every event with floor < id ≤ cursor; None until a stream caught up
    cursor: int = 0
    recent: list[JobEvent] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, cursor: int) -> None:
        if self.floor is None:
            self.floor = self.cursor = cursor

    def add(self, rows: list[JobEvent]) -> None:
        if not rows:
            return
        self.recent.extend(rows)
        self.cursor = rows[-1].id
        if len(self.recent) > 2 * PAGE:
            self.floor = self.recent[-PAGE - 1].id
            del self.recent[:-PAGE]
        self.changed.set()
        self.changed = asyncio.Event()


class Feed:
    """This process's view of new events, shared by all its streams. Made once a web process; see `feed_of`."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._watched: dict[int, _Watched] = {}
        self._poller: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._redis_awake = False
        self.queries = 0

    async def watch(self, job_id: int, after: int = 0) -> AsyncIterator[list[JobEvent]]:
        """Batches of the job's events after an id, oldest first; an empty batch after a long silence.

        Ends after the event that ends the job; at once if the job is over and nothing is left to tell.
        """
        while rows := await self._read(job_id, after):
            after = rows[-1].id
            yield rows
        newest = await asyncio.to_thread(self._last, job_id)
        after = min(after, newest.id if newest else 0)  # an id that never was (a restored database) hides nothing
        if is_end(newest) and newest is not None and newest.id == after:
            return
        with self._watching(job_id, after) as watched:
            while True:
                changed = watched.changed
                caught_up = watched.floor is not None and after >= watched.floor
                rows = (
                    [row for row in watched.recent if row.id > after] if caught_up else await self._read(job_id, after)
                )
                if rows:
                    after = rows[-1].id
                    yield rows
                    if is_end(rows[-1]):
                        return
                elif not await _happens(changed, self._settings.stream_ping_seconds):
                    yield []

    @contextlib.contextmanager
    def _watching(self, job_id: int, after: int) -> Iterator[_Watched]:
        watched = self._watched.setdefault(job_id, _Watched())
        watched.streams += 1
        watched.start(after)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            yield watched
        finally:
            watched.streams -= 1
            if not watched.streams:
                self._watched.pop(job_id, None)
                self._woken.set()

    async def _poll(self) -> None:
        listener = asyncio.create_task(self._listen()) if self._settings.redis else None
        try:
            while self._watched:
                await _happens(self._woken, self._tick_seconds())
                self._woken.clear()
                cursors = {
                    job_id: watched.cursor for job_id, watched in self._watched.items() if watched.floor is not None
                }
                try:
                    rows = await asyncio.to_thread(self._look, cursors)
                except Exception as error:  # a database that restarts must not end the streams for good
                    log.warning("events.poll_failed", error=str(error))
                    await asyncio.sleep(1)
                    continue
                self._hand_out(rows)
        finally:
            if listener is not None:
                listener.cancel()
            self._redis_awake = False

    def _tick_seconds(self) -> float:
        poll = self._settings.stream_poll_seconds
        return max(poll, REDIS_IDLE_SECONDS) if self._redis_awake else poll

    def _hand_out(self, rows: list[JobEvent]) -> None:
        by_job: dict[int, list[JobEvent]] = {}
        for row in rows:
            by_job.setdefault(row.job_id, []).append(row)
        for job_id, events in by_job.items():
            if watched := self._watched.get(job_id):
                watched.add([event for event in events if event.id > watched.cursor])

    def _look(self, cursors: dict[int, int]) -> list[JobEvent]:
        """New events of all watched jobs: one query for every 200 different jobs."""
        rows: list[JobEvent] = []
        with read_session(self._engine) as session:
            pairs = list(cursors.items())
            for start in range(0, len(pairs), JOBS_PER_QUERY):
                self.queries += 1
                some = pairs[start : start + JOBS_PER_QUERY]
                newer = or_(*(and_(JobEvent.job_id == job_id, JobEvent.id > cursor) for job_id, cursor in some))
                rows += session.scalars(select(JobEvent).where(newer).order_by(JobEvent.id).limit(10 * PAGE))
        return rows

    async def _read(self, job_id: int, after_id: int) -> list[JobEvent]:
        def read() -> list[JobEvent]:
            with read_session(self._engine) as session:
                return after(session, job_id=job_id, after=after_id)

        return await asyncio.to_thread(read)

    def _last(self, job_id: int) -> JobEvent | None:
        with read_session(self._engine) as session:
            return last(session, job_id=job_id)

    async def _listen(self) -> None:
        """Wake the poller when Redis says so; while Redis is away, the poller's own tick does."""
        while True:
            try:
                client = redis.asyncio.Redis.from_url(
                    str(self._settings.redis), socket_connect_timeout=2, health_check_interval=5
                )
                async with client, client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(CHANNEL)
                    self._redis_awake = True
                    self._woken.set()  # what was published before we listened
                    while True:
                        if await channel.get_message(timeout=2) is not None:
                            self._woken.set()
            except (redis.RedisError, OSError) as error:
                if self._redis_awake:
                    log.warning("redis.listen_failed", error=str(error), consequence="looking for events by polling")
                self._redis_awake = False
                self._woken.set()
                await asyncio.sleep(2)


async def _happens(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def feed_of(app: "FastAPI") -> Feed:
    """The app's feed, made at its first use: the app's state holds `engine` and `settings`."""
    if not hasattr(app.state, "feed"):
        app.state.feed = Feed(app.state.engine, app.state.settings)
    return app.state.feed
